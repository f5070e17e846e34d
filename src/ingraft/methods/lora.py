"""LoRA: a product of two thin matrices, added."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def lora(lora_A: Tensor, lora_B: Tensor, *, scale: float) -> RowFormula:
    """W' = W + s·B·A (Hu et al. 2021, arXiv:2106.09685).

    lora_A: [r, in], lora_B: [out, r]; of a convolution [r, in, k…] and [out, r, 1…], which flatten to the same.
    """
    left, right = lora_B.flatten(1) * scale, lora_A.flatten(1)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows


def lora_embedding(lora_embedding_A: Tensor, lora_embedding_B: Tensor, *, scale: float) -> RowFormula:
    """E' = E + s·(B·A)ᵀ (Hu et al. 2021, arXiv:2106.09685).

    lora_embedding_A: [r, V], lora_embedding_B: [d, r].
    """
    return lora(lora_embedding_B.T, lora_embedding_A.T, scale=scale)


def lora_bias(bias: Tensor, *, lora_bias: Tensor, scale: float) -> Tensor:
    """b' = b + s·b_B: the second projection's own bias (`lora_bias=True`)."""
    return bias + lora_bias * scale


def lora_expert(lora_A: Tensor, lora_B: Tensor, *, scale: float, expert: int, experts: int) -> RowFormula:
    """W'ₑ = Wₑ + s·Bₑ·Aₑ for one of a stack of experts (PEFT's `target_parameters`).

    lora_A: [experts·r, in], expert by expert; lora_B: [out, r·experts], the expert's number running fastest.
    """
    a = lora_A.reshape(experts, -1, lora_A.shape[-1])[expert]
    b = lora_B.reshape(lora_B.shape[0], -1, experts)[:, :, expert]
    return lora(a, b, scale=scale)
