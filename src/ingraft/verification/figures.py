"""What the merge did to the edited tensors, summed up over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class TensorFigures(Protocol):
    @property
    def tensor(self) -> str: ...
    @property
    def elements(self) -> int: ...
    @property
    def changed(self) -> int: ...
    @property
    def base_norm(self) -> float: ...
    @property
    def delta_norm(self) -> float: ...
    @property
    def rounding_loss(self) -> float: ...


def effect_figures(figures: Sequence[TensorFigures]) -> dict[str, Any]:
    """Totals and one row per tensor, in JSON types.

    kept_of_delta  1 − ‖what rounding lost‖ / ‖delta‖ over all edited tensors
    """
    delta = sum(f.delta_norm**2 for f in figures)
    lost = sum((f.rounding_loss * f.delta_norm) ** 2 for f in figures)
    base = sum(f.base_norm**2 for f in figures)
    elements = sum(f.elements for f in figures)
    return {
        "elements_changed": sum(f.changed for f in figures),
        "elements_edited": elements,
        "relative_delta": (delta / base) ** 0.5 if base else None,
        "kept_of_delta": 1.0 - (lost / delta) ** 0.5 if delta else None,
        "tensors": [
            {
                "tensor": f.tensor,
                "elements": f.elements,
                "changed": f.changed,
                "base_norm": f.base_norm,
                "delta_norm": f.delta_norm,
                "rounding_loss": f.rounding_loss,
            }
            for f in figures
        ],
    }
