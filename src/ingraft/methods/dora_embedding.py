"""DoRA of an embedding: the lengths are those of columns, and take the whole of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


class Base(Protocol):
    """The base weight, float32 blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]: ...


def dora_embedding(
    base: Base,
    lora_embedding_A: Tensor,
    lora_embedding_B: Tensor,
    lora_magnitude_vector: Tensor,
    *,
    scale: float,
) -> RowFormula:
    """W' = m ∘ V / ‖V‖ with V = W + s·(B·A)ᵀ, by columns, W: [V, d].

    A: [r, V], B: [d, r], m: [d]. The norms take all of W, read once while building.
    """
    left, right = lora_embedding_A.T * scale, lora_embedding_B.T
    squares = torch.zeros(base.shape[1], dtype=torch.float64)
    for at, block in base.blocks():
        squares += block.addmm(left[at], right).square_().sum(0, dtype=torch.float64)
    stretch = (lora_magnitude_vector / squares.sqrt()).float()

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right).mul_(stretch)

    return rows
