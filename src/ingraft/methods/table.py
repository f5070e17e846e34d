"""The table of PEFT methods, and how to find a row and its formula. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ingraft.errors import UnusableInput, nearest
from ingraft.methods import (
    rows_lora,
    rows_low_rank,
    rows_other,
    rows_refused,
    rows_shared,
    rows_structured,
)
from ingraft.methods.method import Method

METHODS: tuple[Method, ...] = (
    *rows_lora.ROWS,
    *rows_low_rank.ROWS,
    *rows_shared.ROWS,
    *rows_structured.ROWS,
    *rows_other.ROWS,
    *rows_refused.ROWS,
)


def method_for(config: Mapping[str, Any]) -> Method:
    """The first row that applies to an adapter_config.json. Raises UnusableInput for an unknown type."""
    peft_type = config.get("peft_type")
    rows = [method for method in METHODS if method.peft_type == peft_type]
    if not rows:
        near = nearest(str(peft_type).upper(), sorted({method.peft_type for method in METHODS}))
        raise UnusableInput(
            f"adapter_config.json: peft_type {peft_type!r} is not known{near}.",
            hint="For those that are, run: ingraft methods",
        )
    for method in rows:
        if method.applies(config):
            return method
    raise UnusableInput(f"adapter_config.json: no known variant of {peft_type} fits it.", hint="Run: ingraft methods")


# Files whose formulas take arrays of numpy and need no torch.
_WITHOUT_TORCH = ("lora", "dora", "adalora", "ia3", "beft", "loha", "lokr", "oft")


def takes_arrays(reference: str) -> bool:
    """Does the named formula take arrays of numpy? All others take torch's tensors only."""
    return reference.partition(":")[0] in _WITHOUT_TORCH


def formula(reference: str) -> Callable[..., Any]:
    """The function that a row's `formula` or `bias` names, "file:function"; may import torch."""
    file, _, function = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(f"ingraft.methods.{file}"), function)
    return found
