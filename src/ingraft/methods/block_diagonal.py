"""BD-LoRA: LoRA with one of its two matrices block-diagonal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ingraft.methods.lora import lora

RowFormula = Callable[[Tensor, slice], Tensor]


def block_diagonal(lora_A: Tensor, lora_B: Tensor, *, scale: float, blocks_A: int, blocks_B: int) -> RowFormula:
    """As `lora`, where A or B is block-diagonal and saved without its zeros (arXiv:2510.23346).

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
