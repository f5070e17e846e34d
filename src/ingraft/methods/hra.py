"""HRA: a chain of reflections of the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def hra(hra_u: Tensor, *, orthogonal: bool) -> RowFormula:
    """W' = W·Π(I − 2·uᵢ·uᵢᵀ), each uᵢ of length 1 (Yuan et al. 2024, arXiv:2405.17484).

    u: [in, r]. `orthogonal` (`apply_GS`): Gram-Schmidt first, and all reflections at once, W·(I − 2·U·Uᵀ).
    """
    mirrors = _gram_schmidt(hra_u) if orthogonal else hra_u / torch.linalg.vector_norm(hra_u, dim=0)
    groups = [mirrors] if orthogonal else _columns(mirrors)

    def rows(weight: Tensor, at: slice) -> Tensor:
        for group in groups:
            weight.addmm_(weight @ group, group.T, alpha=-2)
        return weight

    return rows


def _gram_schmidt(vectors: Tensor) -> Tensor:
    """Step by step like PEFT: it starts from pairs of equal vectors, whose difference is mostly rounding at first."""
    done: list[Tensor] = []
    for vector in _columns(vectors):
        for other in done:
            vector = vector - (other.T @ vector) * other
        done.append(vector / torch.linalg.vector_norm(vector))
    return torch.cat(done, dim=1)


def _columns(matrix: Tensor) -> list[Tensor]:
    return [matrix[:, column, None] for column in range(matrix.shape[1])]
