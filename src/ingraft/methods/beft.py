"""BEFT: the bias alone is trained."""

from __future__ import annotations

from torch import Tensor


def beft(bias: Tensor, beft_bias: Tensor) -> Tensor:
    """b' = b + Δb (arXiv:2509.15974). Δb: [1, out]."""
    return bias + beft_bias.flatten()
