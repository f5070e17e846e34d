"""Direct names where they settle it, the meta model where they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput
from ingraft.naming.direct import direct_names
from ingraft.naming.names import Names

if TYPE_CHECKING:
    from ingraft.naming.meta import RuntimeModel

# Output layers that share the embedding's numbers in most architectures.
_OUTPUT_LAYERS = ("lm_head.weight", "decoder.weight", "embed_out.weight", "output_embeddings.weight")
# Types whose bodies share no numbers between parameters and look their embeddings up as they are. Asking a running
# model takes transformers, and five seconds.
WITHOUT_TIES = frozenset(
    (
        *("albert", "bert", "camembert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta"),
        *("llama", "mistral", "qwen2", "qwen3", "xlm-roberta"),
    )
)


def find_names(
    parameters: Sequence[str],
    optional: Sequence[str],
    model: BaseModel,
    *,
    saved: Sequence[str] = (),
    runtime: RuntimeModel | None = None,
    trust_remote_code: bool = False,
) -> Names:
    """Where `parameters` and, if they exist, `optional` ones lie in the base's checkpoint.

    The running model is asked when a parameter or a `saved` one (an optional one that ought to exist) is not stored
    under its name, or may share its numbers with another; and where it was built already, as `runtime`, for what only
    it knows: the order of its modules, how it stacks experts.
    """
    optional = [*optional, *saved]
    names = direct_names(parameters, optional, model.checkpoint, model.config)
    missing = [parameter for parameter in parameters if parameter in names.missing]
    unknown = [parameter for parameter in saved if parameter in names.missing]
    if not missing and not unknown and runtime is None and not _may_be_tied(names, model):
        return names
    from ingraft.naming.meta import meta_names, runtime_model

    try:
        asked = runtime or runtime_model(model, trust_remote_code=trust_remote_code, head=model.as_stored)
        found = meta_names(parameters, optional, asked)
        if any(parameter in found.missing for parameter in parameters):
            with_head = meta_names(
                parameters, optional, runtime_model(model, trust_remote_code=trust_remote_code, head=True)
            )
            if not any(parameter in with_head.missing for parameter in parameters):
                return with_head
    except UnusableInput:
        if unknown and not missing and runtime is None and not _may_be_tied(names, model):
            return names
        if missing and not _could_be_renamed(missing, model):
            return names
        raise
    return _with_stored(found, names)


def _with_stored(found: Names, direct: Names) -> Names:
    """`found`, and what the running model does not have but the file does: a head that is not loaded."""
    extra = {name: regions for name, regions in direct.regions.items() if name in found.missing}
    return replace(
        found,
        regions={**found.regions, **extra},
        shapes={**found.shapes, **{name: direct.shapes[name] for name in extra}},
        missing=tuple(name for name in found.missing if name not in extra),
    )


def _may_be_tied(names: Names, model: BaseModel) -> bool:
    """Is an embedding or an output layer among the parameters that were found, and may it share its numbers?"""
    if any(parameter.endswith(_OUTPUT_LAYERS) for parameter in names.regions):
        return True
    if any(names.kinds.get(parameter.removesuffix(".weight")) == "embedding" for parameter in names.regions):
        return not (_runs_as_a_body(model) and model.config.get("model_type") in WITHOUT_TIES)
    return False


def _runs_as_a_body(model: BaseModel) -> bool:
    """Is it loaded as transformers' own class without any head?"""
    return model.task == "feature-extraction" and not model.as_stored and not model.config.get("auto_map")


def _could_be_renamed(missing: Sequence[str], model: BaseModel) -> bool:
    """Does the base have code of its own that could give other names to its tensors?"""
    return bool(model.config.get("auto_map")) and bool(missing)
