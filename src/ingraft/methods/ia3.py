"""(IA)³: what goes into a layer, or what comes out of it, is scaled."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def ia3(ia3_l: Tensor, *, feedforward: bool) -> RowFormula:
    """W' = W·diag(l) for feedforward layers, otherwise W' = diag(l)·W (Liu et al. 2022, arXiv:2205.05638).

    l: [1, in] or [out, 1]; of a convolution [1, out, 1…].
    """
    scales = ia3_l.flatten()

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.mul_(scales if feedforward else scales[at, None])

    return rows


def ia3_bias(bias: Tensor, ia3_l: Tensor, *, feedforward: bool) -> Tensor:
    """b' = l ∘ b, since the whole output is scaled; of feedforward layers b' = b. [out]"""
    return bias if feedforward else bias * ia3_l.flatten()
