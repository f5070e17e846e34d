"""AdaLoRA: a low-rank product in the form of a singular value decomposition, of a rank that training chose."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def adalora(lora_A: Tensor, lora_B: Tensor, lora_E: Tensor, *, scale: float) -> RowFormula:
    """W' = W + s·B·diag(E)·A (Zhang et al. 2023, arXiv:2303.10512).

    A: [r, in], B: [out, r], E: [r, 1]; r may be 0, and then nothing changes.
    """
    left = lora_B * (lora_E.flatten() * scale)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left[at], lora_A)

    return rows
