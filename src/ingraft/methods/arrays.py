"""What the formulas of some methods are written for: arrays of numpy; where operators alone do, tensors as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Array: TypeAlias = Any
RowFormula = Callable[[Array, slice], Array]


def flat(array: Array) -> Array:
    """[rows, …] as a matrix: a convolution's kernel is flattened to [out, in·k·k]."""
    return array.reshape(len(array), -1)
