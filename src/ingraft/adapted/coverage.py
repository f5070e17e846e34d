"""Which modules the config speaks of: for files that do not say it themselves, and to find files that lost layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ingraft.adapter import Adapter
from ingraft.completeness import is_targeted
from ingraft.errors import UnusableInput
from ingraft.naming.numbers import NUMBER


def configured_modules(adapter: Adapter, model: Any) -> dict[str, str]:
    """The modules that the config's rules choose, for an adapter whose file holds shared tensors alone."""
    from transformers.pytorch_utils import Conv1D

    found = {
        name: name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and is_targeted(adapter.config.raw, name)
    }
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
    missing = set()
    for module, live in modules.items():
        if len(NUMBER.findall(module)) != len(NUMBER.findall(live)):
            continue
        for other in siblings[NUMBER.sub("*", live)]:
            trained = _renumbered(module, NUMBER.findall(other))
            if other not in adapted and is_targeted(adapter.config.raw, trained):
                missing.add(trained)
    if missing:
        raise UnusableInput(
            f"{adapter.weights} has no tensors for {min(missing)}, which its config targets.",
            hint="The file is incomplete, or the base is another model. Save the adapter again or pass --base.",
        )


def _renumbered(module: str, numbers: list[str]) -> str:
    remaining = iter(numbers)
    return NUMBER.sub(lambda _: next(remaining), module)
