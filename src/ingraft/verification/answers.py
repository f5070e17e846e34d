"""What the three models answered, kept for whoever wants to look at more than the figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Answers:
    """Outputs of base, base + adapter and merged model for the same texts, row by row.

    base, adapted, merged  float32 [n, width]
    of_text                [n]: the number of the text that a row is for, so that a text may have many rows
    """

    model_class: str
    texts: tuple[str, ...]
    of_text: NDArray[Any]
    base: NDArray[Any]
    adapted: NDArray[Any]
    merged: NDArray[Any]
