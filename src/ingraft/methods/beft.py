"""BEFT: the bias alone is trained."""

from __future__ import annotations

from ingraft.methods.arrays import Array


def beft(bias: Array, beft_bias: Array) -> Array:
    """b' = b + Δb (arXiv:2509.15974). Δb: [1, out]."""
    return bias + beft_bias.flatten()
