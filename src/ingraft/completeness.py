"""Does the adapter file hold every layer that its config says was trained?

A file that lost layers still loads everywhere, as a weaker adapter. For each adapted module, the modules of the base
that differ from it in layer numbers only are looked up; where the config's rules would have adapted one of them too,
its tensors must be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ingraft.adapter import Adapter, AdapterTensors, TargetModule, check_patterns
from ingraft.checkpoint import Checkpoint
from ingraft.errors import UnusableInput
from ingraft.naming import Names
from ingraft.naming.meta import RuntimeModel
from ingraft.naming.numbers import NUMBER


def check_layers_covered(adapter: Adapter, checkpoint: Checkpoint, tensors: AdapterTensors, names: Names) -> None:
    """Raises UnusableInput that names the first module whose tensors are missing."""
    adapted = {target.module for target in tensors.targets}
    stored: dict[str, set[tuple[str, ...]]] = {}
    for name in checkpoint.tensors:
        stored.setdefault(NUMBER.sub("*", name), set()).add(tuple(NUMBER.findall(name)))
    others: set[str] = set()
    for module in sorted(adapted):
        regions = names.regions.get(f"{module}.weight", ())
        if len(regions) != 1:
            continue
        numbers = NUMBER.findall(module)
        tensor = regions[0].tensor
        if not numbers or NUMBER.findall(tensor) != numbers:
            continue
        _check_bias_stored(checkpoint, tensor, stored)
        others |= {_with_numbers(module, sibling) for sibling in stored[NUMBER.sub("*", tensor)]} - adapted
    check_patterns(adapter, others)
    missing = {other for other in others if is_targeted(adapter.config.raw, other)}
    if missing:
        first = min(missing)
        raise UnusableInput(
            f"{adapter.weights} has no tensors for {first}, which its config targets "
            f"({len(missing)} of {len(missing) + len(adapted)} modules are missing).",
            hint="The file is incomplete, or the base is another model. Save the adapter again or pass --base.",
        )


def _check_bias_stored(checkpoint: Checkpoint, weight: str, stored: Mapping[str, set[tuple[str, ...]]]) -> None:
    """A base whose layer has no bias while the same layer elsewhere has one has lost it."""
    bias = weight.removesuffix("weight") + "bias"
    if bias not in checkpoint.tensors and stored.get(NUMBER.sub("*", bias)):
        raise UnusableInput(
            f"{checkpoint.folder} has no {bias}, although the other layers have one: the file is incomplete.",
            hint="Download the base again.",
        )


def with_configured_modules(tensors: AdapterTensors, adapter: Adapter, runtime: RuntimeModel) -> AdapterTensors:
    """Targets by the config's rules, for a method whose file holds shared tensors alone."""
    modules = [name for name, kind in runtime.kinds.items() if kind in ("linear", "conv1d")]
    check_patterns(adapter, modules)
    targeted = [name for name in modules if is_targeted(adapter.config.raw, name)]
    return replace(tensors, targets=tuple(TargetModule(module, {}) for module in targeted))


def _with_numbers(module: str, numbers: tuple[str, ...]) -> str:
    remaining = iter(numbers)
    return NUMBER.sub(lambda _: next(remaining), module)


def is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """PEFT's own rule (`check_target_module_exists`), by the config's names, patterns and layer numbers.

    Some patterns take for ever: `check_patterns` comes first."""
    excluded = config.get("exclude_modules")
    if excluded and _matches(excluded, module):
        return False
    if any(_matches(rf"(^|.*\.){name}($|\..*)", module) for name in config.get("modules_to_save") or []):
        return False
    targets = config.get("target_modules")
    if not targets or targets == "all-linear" or not _matches(targets, module):
        return False
    layers = config.get("layers_to_transform")
    if layers is None or layers == [] or isinstance(targets, str) or module in targets:
        return True
    number = _layer_number(config.get("layers_pattern"), module)
    return number is not None and number in (layers if isinstance(layers, list) else [layers])


def _layer_number(patterns: Any, module: str) -> int | None:
    """The first number in the module's name that follows one of the patterns (none: any part but the first)."""
    if patterns:
        named = [patterns] if isinstance(patterns, str) else patterns
        found = [re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module) for pattern in named]
    else:
        found = [re.match(r".*?\.[^.]*\.(\d+)\.", module)]
    return next((int(match.group(1)) for match in found if match), None)


def _matches(names: Any, module: str) -> bool:
    if isinstance(names, str):
        try:
            return re.fullmatch(names, module) is not None
        except re.error:
            return False
    return any(module == name or module.endswith(f".{name}") for name in names if isinstance(name, str))
