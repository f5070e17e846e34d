"""Uni-LoRA: both factors of all modules filled from one vector."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def unilora(
    unilora_theta_d: Tensor,
    unilora_indices_A: Tensor,
    unilora_indices_B: Tensor,
    unilora_scales_A: Tensor,
    unilora_scales_B: Tensor,
) -> RowFormula:
    """W' = W + B·A, A = θ[indices A] ∘ scales A, and B likewise (Li et al. 2025, arXiv:2506.00799).

    θ: [d]; indices and scales A: [r, in], B: [out, r].
    """
    left = unilora_theta_d[unilora_indices_B.long()] * unilora_scales_B
    right = unilora_theta_d[unilora_indices_A.long()] * unilora_scales_A

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows
