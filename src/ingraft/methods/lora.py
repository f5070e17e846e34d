"""LoRA: a product of two thin matrices, added."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def lora(lora_A: Tensor, lora_B: Tensor, *, scale: float) -> RowFormula:
    """W' = W + s·B·A (Hu et al. 2021, arXiv:2106.09685).

    A: [r, in], B: [out, r]; of a convolution [r, in, k…] and [out, r, 1…], which flatten to the same.
    """
    left, right = lora_B.flatten(1) * scale, lora_A.flatten(1)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows


def lora_embedding(lora_embedding_A: Tensor, lora_embedding_B: Tensor, *, scale: float) -> RowFormula:
    """W' = W + s·(B·A)ᵀ, W: [V, d].

    A: [r, V], B: [d, r].
    """
    return lora(lora_embedding_B.T, lora_embedding_A.T, scale=scale)


def lora_bias(bias: Tensor, lora_bias: Tensor, *, scale: float) -> Tensor:
    """b' = b + s·b_B: the bias that B has of its own (`lora_bias=True`). [out]"""
    return bias + lora_bias * scale


def lora_block_diagonal(lora_A: Tensor, lora_B: Tensor, *, scale: float, blocks_A: int, blocks_B: int) -> RowFormula:
    """As `lora`, where A or B is block-diagonal and saved without its zeros (BD-LoRA, arXiv:2510.23346).

    A: [r, in/blocks_A], B: [out, r/blocks_B]; with blocks_A = blocks_B = 1 plain LoRA.
    """
    return lora(_spread(lora_A, blocks_A), _spread(lora_B, blocks_B), scale=scale)


def _spread(matrix: Tensor, blocks: int) -> Tensor:
    """[rows, columns] with the blocks one below the other to [rows, columns·blocks] with them on the diagonal."""
    parts = matrix.view(blocks, -1, matrix.shape[1])
    spread = matrix.new_zeros(blocks, parts.shape[1], blocks, parts.shape[2])
    block = torch.arange(blocks)
    spread[block, :, block] = parts
    return spread.flatten(2).flatten(0, 1)


def lora_expert(lora_A: Tensor, lora_B: Tensor, *, scale: float, expert: int, experts: int) -> RowFormula:
    """W'ₑ = Wₑ + s·Bₑ·Aₑ for one of a stack of experts (PEFT's `target_parameters`).

    A: [experts·r, in], expert by expert; B: [out, r·experts], the expert's number running fastest. Wₑ in the
    orientation [out, in], whichever way round the stack holds it.
    """
    rank = len(lora_A) // experts
    return lora(lora_A[expert * rank : (expert + 1) * rank], lora_B[:, expert::experts], scale=scale)
