"""AdaLoRA: a low-rank product in the form of a singular value decomposition, of a rank that training chose."""

from __future__ import annotations

from ingraft.methods.arrays import AddedProduct, Array


def adalora(lora_A: Array, lora_B: Array, lora_E: Array, *, scale: float) -> AddedProduct:
    """W' = W + s·B·diag(E)·A (Zhang et al. 2023, arXiv:2303.10512).

    A: [r, in], B: [out, r], E: [r, 1]; r may be 0, and then nothing changes.
    """
    return AddedProduct(lora_B * (lora_E.flatten() * scale), lora_A)
