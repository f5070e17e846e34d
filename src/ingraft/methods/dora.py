"""DoRA: LoRA for the direction, a trained vector for the length."""

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


def dora(lora_A: Tensor, lora_B: Tensor, lora_magnitude_vector: Tensor, *, scale: float) -> RowFormula:
    """W' = m ∘ V / ‖V‖ with V = W + s·B·A, by rows (Liu et al. 2024, arXiv:2402.09353).

    A: [r, in], B: [out, r], m: [out]; of a convolution [r, in, k…], [out, r, 1…], [1, out, 1…].
    """
    left, right, length = lora_B.flatten(1) * scale, lora_A.flatten(1), lora_magnitude_vector.flatten()

    def rows(weight: Tensor, at: slice) -> Tensor:
        direction = weight.addmm_(left[at], right)
        return direction.mul_((length[at] / torch.linalg.vector_norm(direction, dim=1))[:, None])

    return rows


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
