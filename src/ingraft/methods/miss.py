"""MiSS: one small matrix, repeated over the weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def miss(miss_block: Tensor) -> RowFormula:
    """W'[o, i] = W[o, i] + D[i mod r, o mod m] (Kang and Yin 2024, arXiv:2409.15371).

    block D: [r, m], m = out, or the `mini_r` columns that init_weights="mini" repeats.
    """
    rank, width = miss_block.shape

    def rows(weight: Tensor, at: slice) -> Tensor:
        repeated = miss_block.T[torch.arange(at.start, at.stop) % width]  # [n, r]
        return weight.add_(repeated[:, torch.arange(weight.shape[1]) % rank])

    return rows


def miss_bat(miss_block: Tensor) -> RowFormula:
    """W'ₚ = Wₚ + Wₚ·Dₚ + Dₚ for every r×r block of the p-th band of r rows (arXiv:2409.15371).

    block D: [out/r, r, r]; the blocks of a band share Dₚ. What init_weights="bat" trains.
    """
    rank = miss_block.shape[-1]

    def rows(weight: Tensor, at: slice) -> Tensor:
        first, last = at.start // rank, -(-at.stop // rank)
        for band in range(first, last):
            start, stop = max(band * rank, at.start), min((band + 1) * rank, at.stop)
            part = weight[start - at.start : stop - at.start].view(stop - start, -1, rank)  # [n, in/r, r]
            own = miss_block[band, start - band * rank : stop - band * rank]  # [n, r]
            part += part @ miss_block[band] + own[:, None, :]
        return weight

    return rows
