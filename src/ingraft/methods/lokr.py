"""LoKr: a Kronecker product of two matrices, each whole or factored."""

from __future__ import annotations

import numpy as np

from ingraft.methods.arrays import Array, RowFormula, flat


def lokr(
    lokr_w1: Array | None = None,
    lokr_w1_a: Array | None = None,
    lokr_w1_b: Array | None = None,
    lokr_w2: Array | None = None,
    lokr_w2_a: Array | None = None,
    lokr_w2_b: Array | None = None,
    lokr_t2: Array | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W' = W + s·(W₁ ⊗ W₂) (Yeh et al. 2023, arXiv:2309.14859).

    W₁: [o₁, i₁] = w1, or w1_a·w1_b.  W₂: [o₂, i₂·k·k] = w2, or w2_a·w2_b, or Σᵢⱼ w2_a[i]·t2[i, j]·w2_b[j].
    out = o₁·o₂, in = i₁·i₂. A whole w2 of a one-dimensional convolution, [o₂, i₂, k], is multiplied from the
    other side by PEFT, (W₂ ⊗ W₁): `torch.kron` lines the dimensions up from the right.
    """
    w1 = _matrix(lokr_w1, lokr_w1_a, lokr_w1_b)
    if lokr_t2 is not None and lokr_w2_a is not None and lokr_w2_b is not None:
        w2 = np.einsum("ij...,ip,jr->pr...", lokr_t2, lokr_w2_a, lokr_w2_b, optimize=True)
    else:
        w2 = _matrix(lokr_w2, lokr_w2_a, lokr_w2_b)
    # The delta is slow[row // period] ∘ fast[row % period]; `slow` is repeated here, `fast` for the rows at hand.
    slow, fast = (w1[:, :, None], flat(w2)) if w2.ndim != 3 else (w2, w1.repeat(w2.shape[2], 1))
    slow = flat((slow * scale)[:, :, None].repeat(fast.shape[1] // slow.shape[2], 2))
    period, times = len(fast), slow.shape[1] // fast.shape[1]

    def rows(weight: Array, at: slice) -> Array:
        row = np.arange(at.start, at.stop)
        # Whole rows are multiplied faster than pieces of i₂ columns.
        repeated = flat(fast[row[:period] % period, None].repeat(times, 1))
        for start in range(0, len(row), period):
            delta = slow[row[start : start + period] // period]
            delta *= repeated[: len(delta)]
            weight[start : start + period] += delta
        return weight

    return rows


def _matrix(whole: Array | None, a: Array | None, b: Array | None) -> Array:
    if whole is not None:
        return whole
    if a is None or b is None:
        raise ValueError("neither a whole matrix nor two factors")
    return a @ b
