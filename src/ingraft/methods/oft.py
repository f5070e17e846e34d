"""OFT and BOFT: the input is turned, block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def oft(
    oft_R: Tensor | None = None,
    oft_embedding_R: Tensor | None = None,
    *,
    block_size: int,
    neumann_terms: int | None,
    longest: float | None,
) -> RowFormula:
    """W' = W·diag(R₁, R₂, …)ᵀ, each R a rotation of b inputs (Qiu et al. 2023, arXiv:2306.07280).

    oft_R: [in/b, b·(b−1)/2], or one row for all blocks (`block_share`): the upper triangles of skew-symmetric Q.
    oft_embedding_R: the same for the output of an embedding, W' = W·diag(R₁, R₂, …), W: [V, d].
    R = (I − Q)·(I + Q)⁻¹, or with `neumann_terms` the series I + 2Q + 2Q² + …, which turns the other way round.
    `longest` (`coft`): a Q longer than that over the root of their number is shortened to it.
    """
    triangles = oft_R if oft_R is not None else oft_embedding_R
    if triangles is None:
        raise ValueError("neither oft_R nor its embedding twin")
    skew = triangles.new_zeros(len(triangles), block_size, block_size)
    upper = torch.triu_indices(block_size, block_size, 1)
    skew[:, upper[0], upper[1]] = triangles
    skew = skew - skew.mT
    if longest is not None:
        limit = longest / len(triangles) ** 0.5
        length = torch.linalg.matrix_norm(skew)[:, None, None]
        skew = torch.where(length > limit, skew * (limit / length), skew)
    rotations = _cayley(skew) if neumann_terms is None else _neumann(skew, neumann_terms)
    rotations = rotations if oft_R is not None else rotations.mT
    return lambda weight, at: _turn(weight, rotations)


def boft(boft_R: Tensor, boft_s: Tensor) -> RowFormula:
    """W' = diag(s)·W·(Mₙ·…·M₁)ᵀ, Mᵢ = Pᵢ·diag(R₁, R₂, …)·Pᵢᵀ (Liu et al. 2023, arXiv:2311.06243).

    boft_R: [n, in/b, b, b], the skew-symmetric half of each counts; s: [out] in any shape. n, the number of butterfly
    factors, is taken from the tensor: without its CUDA extension PEFT trains one, whatever the config says.
    """
    factors, blocks, size, _ = boft_R.shape
    rotations = _cayley((boft_R - boft_R.mT) / 2)
    scales = boft_s.flatten()
    orders = [_butterfly(blocks * size, blocks >> i, size // 2, factors) for i in range(factors)]

    def rows(weight: Tensor, at: slice) -> Tensor:
        for order, rotation in zip(orders, rotations, strict=True):
            weight = _turn(weight[:, order.argsort()], rotation)[:, order]
        return weight.mul_(scales[at, None])

    return rows


def _turn(weight: Tensor, rotations: Tensor) -> Tensor:
    """W·diag(R₁, R₂, …)ᵀ for rotations [n, b, b], or [1, b, b] for all blocks."""
    parts = weight.reshape(len(weight), -1, rotations.shape[-1])
    if len(rotations) == 1:
        return (parts @ rotations[0].T).view(weight.shape)
    return torch.bmm(parts.transpose(0, 1), rotations.mT).transpose(0, 1).reshape(weight.shape)


def _cayley(skew: Tensor) -> Tensor:
    """(I − Q)·(I + Q)⁻¹"""
    eye = torch.eye(skew.shape[-1])
    rotation: Tensor = torch.linalg.solve(eye + skew, eye - skew, left=False)
    return rotation


def _neumann(skew: Tensor, terms: int) -> Tensor:
    """I + 2Q + 2Q² + … + Qᵗ⁻¹, about (I + Q)·(I − Q)⁻¹; as in PEFT three terms are the same as four."""
    terms = 4 if terms == 3 else terms
    result = power = torch.eye(skew.shape[-1]).expand_as(skew)
    for exponent in range(1, terms):
        power = power @ skew
        result = result + power * (1 if exponent == terms - 1 > 1 else 2)
    return result


def _butterfly(columns: int, groups: int, half_block: int, factors: int) -> Tensor:
    """In each of the groups the even half-blocks before the odd ones."""
    if factors == 1:
        return torch.arange(columns)
    halves = torch.arange(columns).view(groups, -1, half_block)
    return torch.cat([halves[:, 0::2], halves[:, 1::2]], dim=1).flatten()
