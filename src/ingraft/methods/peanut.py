"""PEANuT: a small network reads the base weight and writes its change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

RowFormula = Callable[[Tensor, slice], Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "leaky_relu": functional.leaky_relu,
    "linear": lambda x: x,
    "mish": functional.mish,
    "relu": torch.relu,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


class Base(Protocol):
    """The base weight, float32 blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]: ...


def peanut(base: Base, peanut_A: Tensor, peanut_B: Tensor, *, activation: str, scaling: float) -> RowFormula:
    """W' = W + s·B·σ(A·W), the network without hidden layers (Zhong et al. 2024, arXiv:2410.01870).

    A: [r, out], B: [out, r]. Not linear in W, but a fixed weight whatever the input.
    """
    hidden = torch.zeros(peanut_A.shape[0], base.shape[1])
    for at, block in base.blocks():
        hidden.addmm_(peanut_A[:, at], block)
    hidden = ACTIVATIONS[activation](hidden)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(peanut_B[at], hidden, alpha=scaling)

    return rows
