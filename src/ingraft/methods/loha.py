"""LoHa: a Hadamard product of two low-rank products."""

from __future__ import annotations

import numpy as np

from ingraft.methods.arrays import Array, RowFormula, flat


def loha(
    hada_w1_a: Array,
    hada_w1_b: Array,
    hada_w2_a: Array,
    hada_w2_b: Array,
    hada_t1: Array | None = None,
    hada_t2: Array | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W' = W + s·(A₁·B₁) ∘ (A₂·B₂) (Hyeon-Woo et al. 2021, arXiv:2108.06098).

    a: [out, r], b: [r, in]. With Tucker cores t: [r, r, k, k] (convolutions; [r, r, k, 1] in one dimension)
    a: [r, out], b: [r, in], and A·B becomes Σᵢⱼ a[i]·t[i, j]·b[j].
    """
    left1, right1 = _factors(hada_w1_a * scale, hada_w1_b, hada_t1)
    left2, right2 = _factors(hada_w2_a, hada_w2_b, hada_t2)

    def rows(weight: Array, at: slice) -> Array:
        delta = left1[at] @ right1
        delta *= left2[at] @ right2
        weight += delta
        return weight

    return rows


def _factors(a: Array, b: Array, core: Array | None) -> tuple[Array, Array]:
    """[out, r] and [r, in·k·k]."""
    if core is None:
        return a, b
    return a.T, flat(np.einsum("ij...,jr->ir...", core, b, optimize=True))
