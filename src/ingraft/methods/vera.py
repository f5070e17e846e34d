"""VeRA and PVeRA: one random pair of projections for all modules, scaled by trained vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def vera(vera_lambda_b: Tensor, vera_lambda_d: Tensor, vera_A: Tensor, vera_B: Tensor) -> RowFormula:
    """W' = W + diag(b)·B·diag(d)·A (Kopiczko et al. 2023, arXiv:2310.11454).

    lambda_b: [out], lambda_d: [r], A: [r, ≥ in], B: [≥ out, r]: of the shared projections the top left is used.
    """
    left = vera_B[: len(vera_lambda_b)] * vera_lambda_b[:, None]

    def rows(weight: Tensor, at: slice) -> Tensor:
        right = vera_A[:, : weight.shape[1]] * vera_lambda_d[:, None]
        return weight.addmm_(left[at], right)

    return rows


def vera_regrown(
    vera_lambda_b: Tensor, vera_lambda_d: Tensor, *, seed: int, largest: tuple[int, int]
) -> RowFormula:
    """As `vera`, with the projections grown again from the seed for the `largest` (out, in) of the adapted modules."""
    return vera(vera_lambda_b, vera_lambda_d, *_projections(seed, len(vera_lambda_d), 1, *largest))


def pvera(pvera_lambda_b: Tensor, pvera_lambda_d: Tensor, pvera_A: Tensor, pvera_B: Tensor) -> RowFormula:
    """W' = W + diag(b)·B·diag(d₁)·A₁, the mean of the distribution that PVeRA learns (arXiv:2512.07703).

    lambda_b: [out], lambda_d: [2r], A: [2r, ≥ in], B: [≥ out, r]; second halves belong to the variance.
    """
    half = len(pvera_lambda_d) // 2
    return vera(pvera_lambda_b, pvera_lambda_d[:half], pvera_A[:half], pvera_B)


def pvera_regrown(
    pvera_lambda_b: Tensor, pvera_lambda_d: Tensor, *, seed: int, largest: tuple[int, int]
) -> RowFormula:
    """As `pvera`, with the projections grown again from the seed for the `largest` (out, in) of the adapted modules."""
    rank = len(pvera_lambda_d) // 2
    return pvera(pvera_lambda_b, pvera_lambda_d, *_projections(seed, rank, 2, *largest))


@lru_cache(maxsize=1)
def _projections(seed: int, rank: int, halves: int, largest_out: int, largest_in: int) -> tuple[Tensor, Tensor]:
    """A: [halves·r, largest in] and B: [largest out, r], Kaiming-uniform from one generator, A first."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in ((halves * rank, largest_in), (largest_out, rank)):
        bound = math.sqrt(6.0 / shape[1])
        drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return drawn[0], drawn[1]
