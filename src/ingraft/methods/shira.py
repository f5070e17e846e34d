"""SHiRA: a trained number for each of a few chosen elements."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def shira(shira_weight: Tensor, shira_indices: Tensor) -> RowFormula:
    """W'[rowⱼ, columnⱼ] = W[rowⱼ, columnⱼ] + weightⱼ (Bhardwaj et al. 2024, arXiv:2406.13175).

    weight: [n], indices: [2, n], rows first; integers, or floats when saved on Windows.
    """
    row, column = shira_indices.long()

    def rows(weight: Tensor, at: slice) -> Tensor:
        here = (row >= at.start) & (row < at.stop)
        return weight.index_put_((row[here] - at.start, column[here]), shira_weight[here], accumulate=True)

    return rows
