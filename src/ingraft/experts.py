"""LoRA on parameters instead of modules (`target_parameters`): stacks of experts, one matrix per expert.

PEFT wraps the module once per parameter, in the order of its parameters: the first is the innermost, and each wrapper
adds `.base_layer` to the names of those inside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ingraft.adapter import AdapterTensors, TargetModule
from ingraft.errors import UnusableInput
from ingraft.naming.meta import RuntimeModel

_WRAPPER = ".base_layer"


def has_target_parameters(config: Mapping[str, Any]) -> bool:
    return bool(config.get("target_parameters"))


def with_parameters(tensors: AdapterTensors, config: Mapping[str, Any], runtime: RuntimeModel) -> AdapterTensors:
    """Give every target that is a wrapped parameter the parameter's own name."""
    wanted = config.get("target_parameters") or []
    if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
        raise UnusableInput(f"adapter_config.json: target_parameters is {wanted!r:.80}, expected a list of names.")
    return replace(tensors, targets=tuple(_with_parameter(target, wanted, runtime) for target in tensors.targets))


def _with_parameter(target: TargetModule, wanted: list[str], runtime: RuntimeModel) -> TargetModule:
    module, depth = target.module, 0
    while module.endswith(_WRAPPER):
        module, depth = module.removesuffix(_WRAPPER), depth + 1
    owner = next(
        (name for name in _spellings(module) if any(shape.startswith(f"{name}.") for shape in runtime.shapes)), module
    )
    own = [name for name in runtime.shapes if name.rpartition(".")[0] == owner]
    matching = [name for name in own if any(name == key or name.endswith(f".{key}") for key in wanted)]
    if not matching:
        if depth:
            raise UnusableInput(
                f"{target.module} has wrapped parameters, but target_parameters names none of {module}."
            )
        return target
    if depth >= len(matching):
        raise UnusableInput(
            f"{target.module} is wrapped {depth} times, but {module} has {len(matching)} target parameters."
        )
    name = matching[len(matching) - 1 - depth]
    return TargetModule(module, target.tensors, parameter=f"{module}.{name.rpartition('.')[2]}")


def _spellings(module: str) -> list[str]:
    """The module's name as it is, and without its first parts (an adapter that was trained with a head)."""
    parts = module.split(".")
    return [".".join(parts[count:]) for count in range(min(3, len(parts)))]
