"""PSOFT: the largest singular directions of the base are turned among themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


class Base(Protocol):
    """The base weight, float32 blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]: ...


def psoft(
    base: Base,
    psoft_R: Tensor,
    psoft_vector_a: Tensor | None = None,
    psoft_vector_b: Tensor | None = None,
    *,
    rank: int,
    orthogonal: bool,
    neumann_terms: int | None,
    longest: float | None,
    symmetric: bool,
) -> RowFormula:
    """W' = W + U·S·(R − I)·Vᵀ, the r largest of W = U·S·Vᵀ; PEFT's α cancels out (openreview.net/forum?id=FSHrinMArK).

    `orthogonal`: psoft_R [r·(r−1)/2] is the upper triangle of a skew-symmetric Q and R = (I + Q)·(I − Q)⁻¹, or with
    `neumann_terms` the series I + 2Q + 2Q² + … of Q, shortened to `longest`; otherwise psoft_R [r, r] is R itself.
    Then rows of R are multiplied by b [r], its columns by a [r]. `symmetric` (`pissa_init`): √S·(R − I)·√S.

    R mixes singular vectors, whose signs are a matter of the LAPACK in use: U and V must come out as they did where
    the adapter was trained, which PEFT takes for granted too.
    """
    turn = _rotation(psoft_R, rank, neumann_terms, longest) if orthogonal else psoft_R
    if psoft_vector_b is not None:
        turn = psoft_vector_b[:, None] * turn
    if psoft_vector_a is not None:
        turn = turn * psoft_vector_a
    left, values, right = _largest(base, rank)
    change = turn - torch.eye(rank)
    root = values.sqrt()
    change = root[:, None] * change * root if symmetric else values[:, None] * change
    left = left @ change

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows


def _rotation(triangle: Tensor, size: int, terms: int | None, longest: float | None) -> Tensor:
    skew = torch.zeros(size, size)
    upper = torch.triu_indices(size, size, 1)
    skew[upper[0], upper[1]] = triangle
    skew = skew - skew.T
    eye = torch.eye(size)
    if terms is None:
        exact: Tensor = torch.linalg.solve(eye - skew, eye + skew, left=False)
        return exact
    length = torch.linalg.matrix_norm(skew)
    if longest is not None and length > longest:
        skew = skew * (longest / length)
    terms = 4 if terms == 3 else terms  # as in PEFT three terms are the same as four
    result = power = eye
    for exponent in range(1, terms):
        power = power @ skew
        result = result + power * (1 if exponent == terms - 1 > 1 else 2)
    return result


def _largest(base: Base, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U [out, r], S [r] and Vᵀ [r, in]."""
    whole = torch.empty(base.shape)
    for at, block in base.blocks():
        whole[at] = block
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    return left[:, :rank], values[:rank], right[:rank].clone()
