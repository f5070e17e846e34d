"""LoRA: a product of two thin matrices, added."""

from __future__ import annotations

from ingraft.methods.arrays import AddedProduct, Array, flat


def lora(lora_A: Array, lora_B: Array, *, scale: float) -> AddedProduct:
    """W' = W + s·B·A (Hu et al. 2021, arXiv:2106.09685).

    A: [r, in], B: [out, r]; of a convolution [r, in, k…] and [out, r, 1…], which flatten to the same.
    """
    return AddedProduct(flat(lora_B) * scale, flat(lora_A))


def lora_embedding(lora_embedding_A: Array, lora_embedding_B: Array, *, scale: float) -> AddedProduct:
    """W' = W + s·(B·A)ᵀ, W: [V, d].

    A: [r, V], B: [d, r].
    """
    return lora(lora_embedding_B.T, lora_embedding_A.T, scale=scale)


def lora_bias(bias: Array, lora_bias: Array, *, scale: float) -> Array:
    """b' = b + s·b_B: the bias that B has of its own (`lora_bias=True`). [out]"""
    return bias + lora_bias * scale


def lora_expert(lora_A: Array, lora_B: Array, *, scale: float, expert: int, experts: int) -> AddedProduct:
    """W'ₑ = Wₑ + s·Bₑ·Aₑ for one of a stack of experts (PEFT's `target_parameters`).

    A: [experts·r, in], expert by expert; B: [out, r·experts], the expert's number running fastest. Wₑ in the
    orientation [out, in], whichever way round the stack holds it.
    """
    rank = len(lora_A) // experts
    return lora(lora_A[expert * rank : (expert + 1) * rank], lora_B[:, expert::experts], scale=scale)
