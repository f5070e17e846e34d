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

    lambda_b: [out], lambda_d: [r], A: [r, ≥ in], B: [≥ out, r]: of these the top left is used.
    """
    left = vera_B[: len(vera_lambda_b)] * vera_lambda_b[:, None]

    def rows(weight: Tensor, at: slice) -> Tensor:
        right = vera_A[:, : weight.shape[1]] * vera_lambda_d[:, None]
        return weight.addmm_(left[at], right)

    return rows


def vera_regrown(
    vera_lambda_b: Tensor,
    vera_lambda_d: Tensor,
    *,
    seed: int,
    largest: tuple[int, int],
    rounded_to: str = "float32",
) -> RowFormula:
    """As `vera`, with A and B grown again from the seed for the `largest` (out, in) of the modules.

    rounded_to: the dtype of the base model that PEFT would load; it rounds what it has grown to that.
    """
    return vera(vera_lambda_b, vera_lambda_d, *_projections(seed, len(vera_lambda_d), 1, *largest, rounded_to))


def pvera(pvera_lambda_b: Tensor, pvera_lambda_d: Tensor, pvera_A: Tensor, pvera_B: Tensor) -> RowFormula:
    """W' = W + diag(b)·B·diag(d₁)·A₁, the mean of the distribution that PVeRA learns (arXiv:2512.07703).

    lambda_b: [out], lambda_d: [2r], A: [2r, ≥ in], B: [≥ out, r]; second halves belong to the variance.
    """
    half = len(pvera_lambda_d) // 2
    return vera(pvera_lambda_b, pvera_lambda_d[:half], pvera_A[:half], pvera_B)


def pvera_regrown(
    pvera_lambda_b: Tensor,
    pvera_lambda_d: Tensor,
    *,
    seed: int,
    largest: tuple[int, int],
    rounded_to: str = "float32",
) -> RowFormula:
    """As `pvera`, with A and B grown again from the seed (see `vera_regrown`)."""
    rank = len(pvera_lambda_d) // 2
    return pvera(pvera_lambda_b, pvera_lambda_d, *_projections(seed, rank, 2, *largest, rounded_to))


@lru_cache(maxsize=1)
def _projections(seed: int, rank: int, halves: int, out: int, columns: int, rounded_to: str) -> tuple[Tensor, Tensor]:
    """A: [halves·r, columns] and B: [out, r], Kaiming-uniform from one generator, A first."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for shape in ((halves * rank, columns), (out, rank)):
        bound = math.sqrt(6.0 / shape[1])
        grown = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        drawn.append(grown.to(getattr(torch, rounded_to)).float())
    return drawn[0], drawn[1]
