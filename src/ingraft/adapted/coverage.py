"""Which modules the config speaks of: for files that do not say it themselves, and to find files that lost layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ingraft.adapter import Adapter, check_patterns
from ingraft.completeness import is_targeted
from ingraft.errors import UnusableInput
from ingraft.naming.numbers import NUMBER


def configured_modules(adapter: Adapter, model: Any) -> dict[str, str]:
    """The modules that the config's rules choose, for an adapter whose file holds shared tensors alone."""
    from transformers.pytorch_utils import Conv1D

    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    check_patterns(adapter, names)
    found = {name: name for name in names if is_targeted(adapter.config.raw, name)}
    if not found:
        raise UnusableInput(
            f"{adapter.name}: no layer of the base is one that its target_modules name.",
            hint=f"Run: ingraft inspect {adapter.name}",
        )
    return found


def check_covered(adapter: Adapter, modules: Mapping[str, str], model: Any) -> None:
    """Raises UnusableInput where a layer that differs from an adapted one in its number alone was targeted too.

    modules  name in the adapter → name in `model`
    """
    adapted = set(modules.values())
    siblings: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        siblings.setdefault(NUMBER.sub("*", name), []).append(name)
    others = set()
    for module, live in modules.items():
        if len(NUMBER.findall(module)) != len(NUMBER.findall(live)):
            continue
        alike = siblings[NUMBER.sub("*", live)]
        others |= {_renumbered(module, NUMBER.findall(other)) for other in alike if other not in adapted}
    check_patterns(adapter, others)
    missing = {other for other in others if is_targeted(adapter.config.raw, other)}
    if missing:
        raise UnusableInput(
            f"{adapter.weights} has no tensors for {min(missing)}, which its config targets.",
            hint="The file is incomplete, or the base is another model. Save the adapter again or pass --base.",
        )


def _renumbered(module: str, numbers: list[str]) -> str:
    remaining = iter(numbers)
    return NUMBER.sub(lambda _: next(remaining), module)
