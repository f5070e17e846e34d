"""(IA)³, OFT, BOFT, HRA, RoAd and trained tokens on numbers that can be followed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ingraft.methods.hra import hra
from ingraft.methods.ia3 import ia3, ia3_bias
from ingraft.methods.oft import boft, oft
from ingraft.methods.road import road, road_bias
from ingraft.methods.tokens import trainable_tokens

WEIGHT = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


PLAIN: dict[str, Any] = {"block_size": 2, "neumann_terms": None, "longest": None}


def turned(weight: list[list[float]], *, parameter: str = "oft_R", **options: Any) -> list[list[float]]:
    """One OFT rotation from q = ½."""
    rows = oft(**{parameter: np.array([[0.5]], np.float32)}, **{**PLAIN, **options})
    found: list[list[float]] = rows(np.array(weight, np.float32), slice(0, len(weight))).tolist()
    return found


def test_ia3_scales_what_comes_out_bias_included() -> None:
    """l = [2 ½]: the first row and bias doubled, the second halved."""
    scales = torch.tensor([[2.0], [0.5]])
    rows = ia3(scales, feedforward=False)
    assert rows(torch.tensor(WEIGHT), slice(0, 2)).tolist() == [[2.0, 4.0, 6.0], [2.0, 2.5, 3.0]]
    assert rows(torch.tensor(WEIGHT[1:]), slice(1, 2)).tolist() == [[2.0, 2.5, 3.0]]
    assert ia3_bias(torch.tensor([1.0, 1.0]), scales, feedforward=False).tolist() == [2.0, 0.5]


def test_ia3_scales_what_goes_into_feedforward_layers() -> None:
    """l = [1 0 −1]: columns, and no bias."""
    scales = torch.tensor([[1.0, 0.0, -1.0]])
    rows = ia3(scales, feedforward=True)
    assert rows(torch.tensor(WEIGHT), slice(0, 2)).tolist() == [[1.0, 0.0, -3.0], [4.0, 0.0, -6.0]]
    assert ia3_bias(torch.tensor([1.0, 1.0]), scales, feedforward=True).tolist() == [1.0, 1.0]


def test_oft_turns_pairs_of_inputs() -> None:
    """Q = [[0 q] [−q 0]], (I − Q)·(I + Q)⁻¹ = [[1 − q²  −2q] [2q  1 − q²]] / (1 + q²) = [[.6 −.8] [.8 .6]] for q = ½.

    [5 10]·Rᵀ = [5·.6 − 10·.8, 5·.8 + 10·.6] = [−5 10].
    """
    assert np.allclose(turned([[5.0, 10.0]]), [[-5.0, 10.0]])


def test_oft_turns_embeddings_the_other_way() -> None:
    """[5 10]·R = [5·.6 + 10·.8, −5·.8 + 10·.6] = [11 2]."""
    assert np.allclose(turned([[5.0, 10.0]], parameter="oft_embedding_R"), [[11.0, 2.0]])


def test_the_series_of_oft_turns_the_other_way_too() -> None:
    """Q² = −q²·I, so I + 2Q + 2Q² + 2Q³ + Q⁴ = (1 − q²)²·I + 2(1 − q²)·Q = .5625·I + 1.5·Q for q = ½.

    [16 0]·Rᵀ = [16·.5625, −16·.75] = [9 −12].
    """
    assert np.allclose(turned([[16.0, 0.0]], neumann_terms=5), [[9.0, -12.0]])


@pytest.mark.parametrize("terms", [3, 4])
def test_three_terms_of_the_series_are_four(terms: int) -> None:
    """I + 2Q + 2Q² + Q³ = (1 − 2q²)·I + (2 − q²)·Q = .5·I + 1.75·Q: [16 0]·Rᵀ = [8 −14]."""
    assert np.allclose(turned([[16.0, 0.0]], neumann_terms=terms), [[8.0, -14.0]])


def test_one_rotation_for_all_blocks_or_one_for_each() -> None:
    """q = 1 turns by a right angle: R = [[0 −1] [1 0]], [a b]·Rᵀ = [−b a]; q = 0 leaves the block."""
    weight = np.array([[1.0, 2.0, 3.0, 4.0]])
    shared = oft(np.array([[1.0]]), **PLAIN)
    single = oft(np.array([[1.0], [0.0]]), **PLAIN)
    assert np.allclose(shared(weight.copy(), slice(0, 1)), [[-2.0, 1.0, -4.0, 3.0]])
    assert np.allclose(single(weight.copy(), slice(0, 1)), [[-2.0, 1.0, 3.0, 4.0]])


def test_coft_shortens_what_is_too_long() -> None:
    """‖Q‖ = √2·q, here √2·½; at most √2·¼ makes q = ¼: R = [[15 −8] [8 15]] / 17, [17 0]·Rᵀ = [15 8]."""
    assert np.allclose(turned([[17.0, 0.0]], longest=2**0.5 / 4), [[15.0, 8.0]])
    assert np.allclose(turned([[5.0, 10.0]], longest=9.0), [[-5.0, 10.0]])


def test_boft_takes_the_skew_half_and_scales_rows() -> None:
    """[[7 1] [0 3]] has the skew half [[0 ½] [−½ 0]]: the rotation of q = ½, and rows doubled."""
    rows = boft(np.array([[[[7.0, 1.0], [0.0, 3.0]]]]), np.array([[2.0]]))
    assert np.allclose(rows(np.array([[5.0, 10.0]]), slice(0, 1)), [[-10.0, 20.0]])


def test_boft_crosses_blocks_with_its_second_factor() -> None:
    """Blocks of 2, a right angle in each: [a b c d]·M₁ᵀ = [−b a −d c], and M₂ pairs the 1st input with the 3rd, the
    2nd with the 4th: [w x y z]·M₂ᵀ = [−y −z w x].
    """
    quarter = np.array([[[0.0, 1.0], [-1.0, 0.0]]] * 2)
    rows = boft(np.stack([quarter, quarter]), np.ones(1))
    assert np.allclose(rows(np.array([[1.0, 2.0, 3.0, 4.0]]), slice(0, 1)), [[4.0, -3.0, -2.0, 1.0]])


def test_oft_leaves_an_untrained_block_be() -> None:
    """Q = 0 has no length to be shortened."""
    rows = oft(np.zeros((1, 1), np.float32), **{**PLAIN, "longest": 0.5})
    with np.errstate(all="raise"):
        assert rows(np.array([[5.0, 10.0]], np.float32), slice(0, 1)).tolist() == [[5.0, 10.0]]


def test_hra_reflects_in_order() -> None:
    """u₁ ∝ [1 0] turns the first coordinate round, then u₂ ∝ [1 1] swaps both and turns them round.

    [1 2] → [−1 2] → [−2 1]. Orthogonal: u₂ becomes [0 1], and [1 2] → [−1 −2].
    """
    u = torch.tensor([[3.0, 1.0], [0.0, 1.0]])
    for orthogonal, expected in ((False, [[-2.0, 1.0]]), (True, [[-1.0, -2.0]])):
        rows = hra(u, orthogonal=orthogonal)
        assert torch.allclose(rows(torch.tensor([[1.0, 2.0]]), slice(0, 1)), torch.tensor(expected), atol=1e-6)


@dataclass(frozen=True)
class Whole:
    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        yield slice(0, len(self.weight)), self.weight.clone()


def test_road_turns_rows_half_a_group_apart() -> None:
    """Groups of 4: rows 0 and 2, 1 and 3; θ a right angle, α = [1 2].

    W'₀ = −W₂, W'₂ = W₀, W'₁ = −2·W₃, W'₃ = 2·W₁.
    """
    theta, alpha = torch.full((2,), torch.pi / 2), torch.tensor([1.0, 2.0])
    weight = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    rows = road(Whole(weight), theta, alpha, variant=1, group_size=4)
    expected = torch.tensor([[-3.0], [-8.0], [1.0], [4.0]])
    one_by_one = [rows(weight[row : row + 1].clone(), slice(row, row + 1)) for row in range(4)]
    assert torch.allclose(torch.cat(one_by_one), expected, atol=1e-6)
    bias = road_bias(weight[:, 0], theta, alpha, variant=1, group_size=4)
    assert torch.allclose(bias, expected[:, 0], atol=1e-6)


def test_trained_tokens_take_their_rows_in_any_order() -> None:
    rows = trainable_tokens(torch.tensor([[30.0], [10.0]]), indices=(3, 1))
    blocks = [rows(torch.zeros(2, 1), slice(start, start + 2)) for start in (0, 2)]
    assert torch.cat(blocks).tolist() == [[0.0], [10.0], [0.0], [30.0]]
