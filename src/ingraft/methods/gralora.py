"""GraLoRA: a grid of k×k low-rank products, and optionally one over the whole weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def gralora(
    gralora_A: Tensor,
    gralora_B: Tensor,
    gralora_A_general: Tensor | None = None,
    gralora_B_general: Tensor | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W'ⱼₙ = Wⱼₙ + s·Bⱼₙ·Aₙⱼ for each block of a k×k grid, + s·B·A (Jung et al. 2025, arXiv:2505.20355).

    A: [k, in/k, r], Aₙⱼ being the j-th of the k parts of r in block n; B: [k, r, out/k], Bⱼₙ being the n-th
    of the k parts of r in block j; general A: [h, in], B: [out, h].
    """
    grid, width, rank = gralora_A.shape
    height = gralora_B.shape[2]
    right = gralora_A.reshape(grid, width, grid, rank // grid)  # [n, in/k, j, r/k]
    left = gralora_B.reshape(grid, grid, rank // grid, height)  # [j, n, r/k, out/k]

    def rows(weight: Tensor, at: slice) -> Tensor:
        for block in range(at.start // height, -(-at.stop // height)):
            start, stop = max(block * height, at.start), min((block + 1) * height, at.stop)
            some = left[block, :, :, start - block * height : stop - block * height]
            delta = torch.einsum("nso,nis->oni", some, right[:, :, block])
            weight[start - at.start : stop - at.start].add_(delta.flatten(1), alpha=scale)
        if gralora_A_general is not None and gralora_B_general is not None:
            weight.addmm_(gralora_B_general[at], gralora_A_general, alpha=scale)
        return weight

    return rows
