"""BD-LoRA's formula on numbers that can be followed by hand."""

from __future__ import annotations

import torch

from ingraft.methods.block_diagonal import block_diagonal

ALL = slice(0, 2)


def test_block_diagonal_factors_are_spread_out() -> None:
    """A = [[1 2] [3 4]] in two blocks is [[1 2 0 0] [0 0 3 4]]; with B = I it is ΔW."""
    factor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    spread = [[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]]
    of_a = block_diagonal(factor, torch.eye(2), scale=1.0, blocks_A=2, blocks_B=1)
    of_b = block_diagonal(torch.eye(4), factor, scale=1.0, blocks_A=1, blocks_B=2)
    assert of_a(torch.zeros(2, 4), ALL).tolist() == spread
    assert of_b(torch.zeros(2, 4), ALL).tolist() == spread
