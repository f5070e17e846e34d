"""LoKr: a Kronecker product of two matrices, each whole or factored."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def lokr(
    lokr_w1: Tensor | None = None,
    lokr_w1_a: Tensor | None = None,
    lokr_w1_b: Tensor | None = None,
    lokr_w2: Tensor | None = None,
    lokr_w2_a: Tensor | None = None,
    lokr_w2_b: Tensor | None = None,
    lokr_t2: Tensor | None = None,
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
        w2 = torch.einsum("i j ..., i p, j r -> p r ...", lokr_t2, lokr_w2_a, lokr_w2_b)
    else:
        w2 = _matrix(lokr_w2, lokr_w2_a, lokr_w2_b)
    from_right = w2.dim() == 3
    flat2 = w2.flatten(1)

    def rows(weight: Tensor, at: slice) -> Tensor:
        row = torch.arange(at.start, at.stop)
        if from_right:
            second, first = w2[row // len(w1)], w1[row % len(w1)]
            delta = second[:, :, None, :] * first[:, None, :, None]  # [n, i₂, i₁, k]
        else:
            first, second = w1[row // len(w2)], flat2[row % len(w2)]
            delta = first[:, :, None] * second[:, None, :]  # [n, i₁, i₂·k·k]
        return weight.add_(delta.reshape(weight.shape), alpha=scale)

    return rows


def _matrix(whole: Tensor | None, a: Tensor | None, b: Tensor | None) -> Tensor:
    if whole is not None:
        return whole
    if a is None or b is None:
        raise ValueError("neither a whole matrix nor two factors")
    return a @ b
