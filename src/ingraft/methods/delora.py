"""DeLoRA: a low-rank product of unit vectors with a trained bound on its size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def delora(delora_A: Tensor, delora_B: Tensor, delora_lambda: Tensor, delora_w_norm: Tensor) -> RowFormula:
    """W' = W + λ/r·(Σᵢ bᵢ·aᵢᵀ / (‖bᵢ‖·‖aᵢ‖))·diag(w) (Bini et al. 2025, arXiv:2503.18225).

    A: [r, in], B: [out, r], λ: [1]; w: [in], the norms of the base weight's columns when the training began.
    Norms of a and b count as 10⁻⁴ at least.
    """
    norms = delora_A.norm(dim=1).clamp(min=1e-4) * delora_B.norm(dim=0).clamp(min=1e-4)
    left = delora_B * (delora_lambda / len(delora_A) / norms)
    right = delora_A * delora_w_norm

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], right)

    return rows
