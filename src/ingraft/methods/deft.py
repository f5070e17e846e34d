"""DEFT: a subspace of the base weight is taken out, and something trained put in its place."""

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


def deft(base: Base, deft_P: Tensor, deft_R: Tensor | None = None, *, decomposition: str, scale: float) -> RowFormula:
    """W' = W + Q·(s·R − Sᵀ·W); without R (PaRa) W − Q·Sᵀ·W (Kumar et al. 2025, NeurIPS, "DEFT").

    P: [out, r], R: [r, in]. decomposition "relu": Q = P, S = max(P, 0); "qr": Q = S, orthonormal, of P = Q·R.
    """
    if decomposition == "qr":
        outer = inner = torch.linalg.qr(deft_P)[0]
    else:
        outer, inner = deft_P, torch.relu(deft_P)
    inject = torch.zeros(deft_P.shape[1], base.shape[1]) if deft_R is None else deft_R * scale
    for at, block in base.blocks():
        inject.addmm_(inner[at].T, block, alpha=-1)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(outer[at], inject)

    return rows
