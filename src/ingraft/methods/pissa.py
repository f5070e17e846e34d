"""LoRA variants whose training began by taking a part out of the base: it is found again from the base.

PEFT takes the part out when it loads the adapter, and rounds what remains to the dtype of the base, as it did when the
training began; so do these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


class Base(Protocol):
    """The base weight, float32 blocks of rows; `dtype`, where it has one, is what it is stored in."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]: ...


def pissa(base: Base, lora_A: Tensor, lora_B: Tensor, *, scale: float) -> RowFormula:
    """W' = W − Uᵣ·Sᵣ·Vᵣᵀ + s·B·A, the r largest of W = U·S·Vᵀ (Meng et al. 2024, arXiv:2404.02948).

    A: [r, in], B: [out, r].
    """
    left, values, right = torch.linalg.svd(_whole(base), full_matrices=False)
    rank = len(lora_A)
    taken = left[:, :rank] * values[:rank]
    return _replaced(taken, right[:rank].clone(), lora_B * scale, lora_A, _dtype(base))


def olora(base: Base, lora_A: Tensor, lora_B: Tensor, *, scale: float, transposed: bool) -> RowFormula:
    """W' = W − s·Qᵣ·Rᵣ + s·B·A, the first r columns and rows of W = Q·R (Büyükakyüz 2024, arXiv:2406.01775).

    A: [r, in], B: [out, r]. `transposed`: Wᵀ = Q·R instead, for layers that are stored so.
    """
    whole = _whole(base)
    q, r = torch.linalg.qr(whole.T if transposed else whole)
    rank = len(lora_A)
    left, right = (r[:rank].T, q[:, :rank].T) if transposed else (q[:, :rank], r[:rank])
    return _replaced(left * scale, right.clone(), lora_B * scale, lora_A, _dtype(base))


def kasa(base: Base, lora_A: Tensor, lora_B: Tensor, lora_diag: Tensor, *, scale: float) -> RowFormula:
    """W' = W − Uᵣ·Sᵣ·Vᵣᵀ + s·B·diag(d)·A, the r smallest of W = U·S·Vᵀ (Wang et al. 2024, arXiv:2412.06071).

    A: [r, in], B: [out, r], d: [r].
    """
    left, values, right = torch.linalg.svd(_whole(base), full_matrices=False)
    rank = len(lora_diag)
    taken = left[:, -rank:] * values[-rank:]
    return _replaced(taken, right[-rank:].clone(), lora_B * (lora_diag * scale), lora_A, _dtype(base))


def _replaced(left_out: Tensor, right_out: Tensor, left_in: Tensor, right_in: Tensor, dtype: torch.dtype) -> RowFormula:
    """One product out, what remains rounded to `dtype`, another product in."""

    def rows(weight: Tensor, at: slice) -> Tensor:
        remains = weight.addmm_(left_out[at], right_out, alpha=-1).to(dtype).float()
        return remains.addmm_(left_in[at], right_in)

    return rows


def _whole(base: Base) -> Tensor:
    """All of W in float32: a decomposition needs it at once."""
    whole = torch.empty(base.shape)
    for at, block in base.blocks():
        whole[at] = block
    return whole


def _dtype(base: Base) -> torch.dtype:
    dtype: torch.dtype = getattr(base, "dtype", torch.float32)
    return dtype
