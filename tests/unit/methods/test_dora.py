"""DoRA's formulas on numbers that can be followed by hand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ingraft.methods.dora import dora
from ingraft.methods.dora_embedding import dora_embedding


class Rows:
    """A base that hands out one row at a time, and counts how often it is read."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.reads = weight, 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        self.reads += 1
        for row in range(len(self.weight)):
            yield slice(row, row + 1), self.weight[row : row + 1].clone()


def test_rows_get_the_length_of_the_magnitude() -> None:
    """V = W + B·A = [[3 0] [0 1]] + [4 0]ᵀ·[0 1] = [[3 4] [0 1]], of lengths 5 and 1; m = [10 2]."""
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    a, b, m = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0], [0.0]]), torch.tensor([10.0, 2.0])
    rows = dora(a, b, m, scale=2.0)
    assert torch.equal(rows(weight[1:].clone(), slice(1, 2)), torch.tensor([[0.0, 2.0]]))
    assert torch.allclose(rows(weight, slice(0, 2)), torch.tensor([[6.0, 8.0], [0.0, 2.0]]))


def test_magnitudes_of_kernels_flatten() -> None:
    """m [1, out, 1, 1], one number for each output channel."""
    rows = dora(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([[[[10.0]]]]), scale=1.0)
    assert torch.allclose(rows(torch.tensor([[3.0, 4.0]]), slice(0, 1)), torch.tensor([[6.0, 8.0]]))


def test_columns_of_embeddings_get_the_length_of_the_magnitude() -> None:
    """(B·A)ᵀ = [0 1]ᵀ·[0 2], so V = [[3 4] [4 1]] + [[0 0] [0 2]] = [[3 4] [4 3]], columns of length 5; m = [5 10]."""
    base = Rows(torch.tensor([[3.0, 4.0], [4.0, 1.0]]))
    a, b, m = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor([5.0, 10.0])
    rows = dora_embedding(base, a, b, m, scale=1.0)
    merged = torch.cat([rows(base.weight[at].clone(), at) for at in (slice(0, 1), slice(1, 2))])
    assert torch.allclose(merged, torch.tensor([[3.0, 8.0], [4.0, 6.0]]))
    assert base.reads == 1
