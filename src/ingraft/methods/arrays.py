"""What the formulas of some methods are written for: arrays of numpy; where operators alone do, tensors as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

Array: TypeAlias = Any
RowFormula = Callable[[Array, slice], Array]


def flat(array: Array) -> Array:
    """[rows, …] as a matrix: a convolution's kernel is flattened to [out, in·k·k]."""
    return array.reshape(len(array), -1)


@dataclass(frozen=True, eq=False)
class AddedProduct:
    """The row formula W' = W + left·right. Its factors are visible, so that a kernel can add the product as it rounds.

    left: [out, r], right: [r, in]
    """

    left: Array
    right: Array

    def __call__(self, weight: Array, at: slice) -> Array:
        product = self.left[at] @ self.right
        if product.shape != weight.shape:  # which one row or column would be spread over
            raise ValueError(f"a product of {list(product.shape)} for {list(weight.shape)}")
        weight += product
        return weight
