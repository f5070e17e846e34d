"""A head that is in neither base nor adapter: the merged model would score with random numbers."""

from __future__ import annotations

from collections.abc import Collection

from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput
from ingraft.naming import Names

_WITHOUT_HEAD = ("feature-extraction", "retrieval")
# Where one of these is stored there is a head, and nothing needs to be built to see it.
_HEADS = {"classifier", "score", "classification_head", "cls", "lm_head", "vocab_transform", "generator_predictions"}


def check_head_stored(model: BaseModel, saved: Collection[str], names: Names, *, trust_remote_code: bool) -> None:
    """Raise UnusableInput when the class that loads the output has an output layer that is stored nowhere.

    saved  parameters that the adapter holds whole
    """
    if model.task in _WITHOUT_HEAD:
        return
    runtime = names.runtime
    if runtime is None:
        if any(_HEADS & set(name.split(".")) for name in (*model.checkpoint.tensors, *saved)):
            return
        from ingraft.naming.meta import runtime_model

        runtime = runtime_model(model, trust_remote_code=trust_remote_code)
    known = {*runtime.regions, *runtime.unclear, *saved, *map(names.in_runtime, saved)}
    known |= {twin for twin, source in runtime.tied.items() if source in known}
    fresh = sorted(runtime.head - known)
    if fresh:
        raise UnusableInput(
            f"{fresh[0]} is in neither the base {model.name} nor the adapter: the merged model would score at random.",
            hint="Train it along: add its module to modules_to_save, train, and save the adapter again.",
        )
