"""(IA)³: what goes into a layer, or what comes out of it, is scaled."""

from __future__ import annotations

from ingraft.methods.arrays import Array, RowFormula


def ia3(ia3_l: Array, *, feedforward: bool) -> RowFormula:
    """W' = W·diag(l) for feedforward layers, otherwise W' = diag(l)·W (Liu et al. 2022, arXiv:2205.05638).

    l: [1, in] or [out, 1]; of a convolution [1, out, 1…].
    """
    scales = ia3_l.flatten()

    def rows(weight: Array, at: slice) -> Array:
        weight *= scales if feedforward else scales[at, None]
        return weight

    return rows


def ia3_bias(bias: Array, ia3_l: Array, *, feedforward: bool) -> Array:
    """b' = l ∘ b, since the whole output is scaled; of feedforward layers b' = b. [out]"""
    return bias if feedforward else bias * ia3_l.flatten()
