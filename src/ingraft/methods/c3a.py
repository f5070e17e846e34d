"""C3A: blocks of circular convolutions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def c3a(c3a_kernel: Tensor) -> RowFormula:
    """W' = W + C/in, C of b×b blocks: Cₘₙ[u, t] = kernel[m, n, (t − u) mod b] (Chen et al. 2024).

    kernel: [out/b, in/b, b]. arXiv:2407.19342.
    """
    _, across, size = c3a_kernel.shape

    def rows(weight: Tensor, at: slice) -> Tensor:
        row = torch.arange(at.start, at.stop)
        turn = (torch.arange(size) - (row % size)[:, None]) % size  # [n, b]
        blocks = c3a_kernel[row // size].gather(2, turn[:, None, :].expand(-1, across, -1))
        return weight.add_(blocks.reshape(weight.shape), alpha=1 / (across * size))

    return rows
