"""OSF: the small singular directions of the base are trained, the large ones kept."""

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


def osf(base: Base, osf_U_low: Tensor, osf_S_low: Tensor, osf_V_low: Tensor) -> RowFormula:
    """W' = W − Uᵣ·Sᵣ·Vᵣᵀ + U'·S'·V'ᵀ, the r smallest of W = U·S·Vᵀ and what they became (arXiv:2504.07097).

    U': [out, r], S': [r], V'ᵀ: [r, in]. Like PEFT it takes out the factors as they are in the dtype of the base.
    """
    whole = torch.empty(base.shape)
    for at, block in base.blocks():
        whole[at] = block
    dtype: torch.dtype = getattr(base, "dtype", torch.float32)
    kept = min(base.shape) - len(osf_S_low)
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    left, values, right = (x.to(dtype).float() for x in (left[:, kept:], values[kept:], right[kept:].clone()))
    left_out, left_in = left * values, osf_U_low * osf_S_low

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.addmm_(left_out[at], right, alpha=-1).addmm_(left_in[at], osf_V_low)

    return rows
