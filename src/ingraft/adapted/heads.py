"""Is something in the live model that neither the base nor the adapter brought: a head with random numbers?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput
from ingraft.naming.meta import runtime_model


def check_heads_trained(model: Any, base: BaseModel, saved: Iterable[str], *, trust_remote_code: bool) -> None:
    """Raises UnusableInput when an output layer of `model` is stored nowhere.

    saved  the live parameters that the adapter holds whole
    """
    body = model.base_model
    if body is model:
        return
    inside = {id(parameter) for parameter in body.parameters()}
    outside = [name for name, parameter in model.named_parameters() if id(parameter) not in inside]
    if not outside:
        return
    runtime = runtime_model(base, trust_remote_code=trust_remote_code)
    known = {*runtime.regions, *runtime.unclear, *saved}
    known |= {twin for twin, source in runtime.tied.items() if source in known}
    known |= {source for twin, source in runtime.tied.items() if twin in known}
    fresh = [name for name in outside if name not in known]
    if fresh:
        raise UnusableInput(
            f"{fresh[0]} is neither in the base {base.name} nor in the adapter: its numbers would be random.",
            hint="Train it along: add its module to modules_to_save, and save the adapter again.",
        )
