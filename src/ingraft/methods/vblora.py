"""VB-LoRA: both factors put together from vectors of a bank that all modules share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def vblora(
    vblora_vector_bank: Tensor,
    vblora_logits_A: Tensor | None = None,
    vblora_logits_B: Tensor | None = None,
    vblora_logits_A_topk_indices: Tensor | None = None,
    vblora_logits_A_topk_weights: Tensor | None = None,
    vblora_logits_B_topk_indices: Tensor | None = None,
    vblora_logits_B_topk_weights: Tensor | None = None,
    *,
    topk: int,
) -> RowFormula:
    """W' = W + B·A, pieces of A and B being Σ softmax(top k logits)·bank (Li et al. 2024, arXiv:2405.15179).

    bank: [h, b], logits A: [r, in/b, h], logits B: [out/b, r, h]; or the top k of the logits as indices
    [.., .., k] and weights [.., .., k − 1], the last weight being what is missing to 1.
    """
    a = _mixtures(vblora_vector_bank, vblora_logits_A, vblora_logits_A_topk_indices, vblora_logits_A_topk_weights, topk)
    b = _mixtures(vblora_vector_bank, vblora_logits_B, vblora_logits_B_topk_indices, vblora_logits_B_topk_weights, topk)
    right = a.flatten(1)  # [r, in]
    left = b.transpose(1, 2).flatten(0, 1)  # [out/b, b, r] to [out, r]

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows


def _mixtures(bank: Tensor, logits: Tensor | None, indices: Tensor | None, weights: Tensor | None, topk: int) -> Tensor:
    """[.., .., b]"""
    if logits is not None:
        best, indices = logits.topk(topk, dim=-1)
        weights = torch.softmax(best, dim=-1)
    elif indices is not None and weights is not None:
        weights = torch.cat([weights, 1 - weights.sum(-1, keepdim=True)], dim=-1)
    else:
        raise ValueError("neither logits nor their top k")
    mixed = torch.zeros(*indices.shape[:-1], bank.shape[1])
    for choice in range(indices.shape[-1]):
        mixed += weights[..., choice, None] * bank[indices[..., choice].long()]
    return mixed
