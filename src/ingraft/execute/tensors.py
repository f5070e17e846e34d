"""Formulas that are written with torch, for arrays: both see the same memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ingraft.checkpoint import dtype_name
from ingraft.execute.inputs import BaseRows


@dataclass(frozen=True)
class _Base:
    """The base weight as formulas read it: in tensors."""

    rows: BaseRows

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, dtype_name(self.rows.dtype))
        return found

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for at, block in self.rows.blocks():
            yield at, torch.from_numpy(block)


def with_tensors(function: Callable[..., Any], *, returns_formula: bool) -> Callable[..., Any]:
    """`function` of tensors as one of arrays. `returns_formula`: what it returns is a formula of tensors again."""

    def of_arrays(*arguments: Any, **named: Any) -> Any:
        found = function(*map(_tensor, arguments), **{name: _tensor(value) for name, value in named.items()})
        return with_tensors(found, returns_formula=False) if returns_formula else found.numpy()

    return of_arrays


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    return _Base(value) if isinstance(value, BaseRows) else value
