"""RandLoRA: a full-rank sum of random low-rank products, each scaled by trained vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def randlora(
    randlora_lambda: Tensor,
    randlora_gamma: Tensor,
    shared_A: Tensor,
    shared_B: Tensor,
    randlora_A: Tensor | None = None,
    randlora_B: Tensor | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W' = W + s·Σⱼ Bⱼ·diag(λⱼ)·A·diag(γⱼ), transposed where out < in (Albert et al. 2025, arXiv:2502.00987).

    lambda: [r, n], gamma: [n, min(out, in)], A: [r, 1, ≥ min], B: [≥ max, ≥ n, r]. PEFT flattens A over
    (r, n) and B over (n, r), so that the product pairs other terms than the paper's; so it was trained.
    Copies of A and B that PEFT saves with every module must be the shared ones.
    """
    for copy, shared in ((randlora_A, shared_A), (randlora_B, shared_B)):
        if copy is not None and not torch.equal(copy, shared):
            raise RuntimeError("this module's copy of the random projections is not the shared one")
    bases, smaller = randlora_gamma.shape
    small = (randlora_lambda[:, :, None] * shared_A[:, :, :smaller] * randlora_gamma[None]).flatten(end_dim=1)
    large = shared_B[:, :bases]

    def rows(weight: Tensor, at: slice) -> Tensor:
        columns = weight.shape[1]
        if columns == smaller:
            return weight.addmm_(large[at].flatten(1), small, alpha=scale)
        return weight.addmm_(small.T[at], large[:columns].flatten(1).T, alpha=scale)

    return rows


def randlora_regrown(
    randlora_lambda: Tensor,
    randlora_gamma: Tensor,
    *,
    scale: float,
    seed: int,
    largest: tuple[int, int],
    sparsity: float,
) -> RowFormula:
    """As `randlora`, with A and B grown again from the seed for the `largest` (out, in) of the modules.

    sparsity: 0 for dense projections, else entries are ±1 with the probability 1/(2·sparsity) each.
    """
    rank = len(randlora_lambda)
    small, large = _projections(seed, rank, min(largest), max(largest), sparsity)
    return randlora(randlora_lambda, randlora_gamma, small, large, scale=scale)


@lru_cache(maxsize=1)
def _projections(seed: int, rank: int, smaller: int, larger: int, sparsity: float) -> tuple[Tensor, Tensor]:
    """A: [r, 1, smaller] and B: [larger, n, r] with n·r ≥ smaller, each divided by its standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    bases = math.ceil(smaller / rank)
    if sparsity:
        small = _signs(torch.rand((rank, 1, smaller), generator=generator), sparsity)
        large = _signs(torch.rand((larger, bases, rank), generator=generator), sparsity)
    else:
        small = _uniform((rank, 1, smaller), generator)
        large = torch.cat([_uniform((larger, 1, rank), generator) for _ in range(bases)], dim=1)
    return (small / small.std()).float(), (large / large.std()).float()


def _uniform(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Kaiming-uniform with a = √5, drawn and later divided in bfloat16, as PEFT does."""
    bound = 1 / math.sqrt(shape[1] * shape[2])
    return torch.empty(shape, dtype=torch.bfloat16).uniform_(-bound, bound, generator=generator)


def _signs(drawn: Tensor, sparsity: float) -> Tensor:
    return (drawn > 1 - 1 / (2 * sparsity)).float() - (drawn < 1 / (2 * sparsity)).float()
