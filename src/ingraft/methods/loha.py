"""LoHa: a Hadamard product of two low-rank products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def loha(
    hada_w1_a: Tensor,
    hada_w1_b: Tensor,
    hada_w2_a: Tensor,
    hada_w2_b: Tensor,
    hada_t1: Tensor | None = None,
    hada_t2: Tensor | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W' = W + s·(A₁·B₁) ∘ (A₂·B₂) (Hyeon-Woo et al. 2021, arXiv:2108.06098).

    a: [out, r], b: [r, in]. With Tucker cores t: [r, r, k, k] (convolutions; [r, r, k, 1] in one dimension)
    a: [r, out], b: [r, in], and A·B becomes Σᵢⱼ a[i]·t[i, j]·b[j].
    """
    left1, right1 = _factors(hada_w1_a, hada_w1_b, hada_t1)
    left2, right2 = _factors(hada_w2_a, hada_w2_b, hada_t2)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addcmul_(left1[at] @ right1, left2[at] @ right2, value=scale)

    return rows


def _factors(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """[out, r] and [r, in·k·k]."""
    if core is None:
        return a, b
    return a.T, torch.einsum("i j ..., j r -> i r ...", core, b).flatten(1)
