"""LoHa and LoKr against the products that their formulas name, in blocks that end anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ingraft.methods.loha import loha
from ingraft.methods.lokr import lokr

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape)


def check(rows: Callable[[Any, slice], Any], delta: Any) -> None:
    """`rows` adds `delta`, and to the weight it was given, however many rows it sees at a time."""
    weight = numbers(*delta.shape)
    for count in (1, 2, 3, 5, 7, len(weight)):
        changed = weight.copy()
        for start in range(0, len(weight), count):
            at = slice(start, min(start + count, len(weight)))
            rows(changed[at], at)
        np.testing.assert_allclose(changed, weight + delta, rtol=1e-12, atol=1e-12)


def test_loha_multiplies_two_products_element_by_element() -> None:
    a1, b1, a2, b2 = numbers(12, 3), numbers(3, 10), numbers(12, 3), numbers(3, 10)
    check(loha(a1, b1, a2, b2, scale=0.5), 0.5 * (a1 @ b1) * (a2 @ b2))


def test_loha_with_cores() -> None:
    a1, b1, a2, b2 = numbers(3, 12), numbers(3, 5), numbers(3, 12), numbers(3, 5)
    t1, t2 = numbers(3, 3, 2, 2), numbers(3, 3, 2, 2)
    first, second = (np.einsum("ijkl,ip,jr->prkl", t, a, b) for t, a, b in ((t1, a1, b1), (t2, a2, b2)))
    check(loha(a1, b1, a2, b2, t1, t2, scale=2.0), 2 * (first * second).reshape(12, -1))


@pytest.mark.parametrize("rows", [1, 3, 4, 12])
def test_lokr_is_a_kronecker_product(rows: int) -> None:
    w1, w2 = numbers(rows, 2), numbers(12 // rows, 5)
    check(lokr(w1, lokr_w2=w2, scale=0.5), 0.5 * np.kron(w1, w2))


def test_lokr_of_factors() -> None:
    a1, b1, a2, b2 = numbers(3, 2), numbers(2, 4), numbers(4, 2), numbers(2, 3)
    rows = lokr(lokr_w1_a=a1, lokr_w1_b=b1, lokr_w2_a=a2, lokr_w2_b=b2, scale=0.5)
    check(rows, 0.5 * np.kron(a1 @ b1, a2 @ b2))


def test_lokr_of_a_kernel_goes_with_the_inputs() -> None:
    """[o₂, i₂, k, k] as [o₂, i₂·k·k], and the same from a core."""
    w1, a, b, core = numbers(3, 2), numbers(2, 4), numbers(2, 5), numbers(2, 2, 3, 3)
    w2 = np.einsum("ijkl,ip,jr->prkl", core, a, b)
    delta = np.kron(w1[:, :, None, None], w2).reshape(12, -1)
    check(lokr(w1, lokr_w2=w2, scale=1.0), delta)
    check(lokr(w1, lokr_w2_a=a, lokr_w2_b=b, lokr_t2=core, scale=1.0), delta)


@pytest.mark.parametrize("rows", [1, 3])
def test_lokr_of_a_line_is_multiplied_from_the_other_side(rows: int) -> None:
    """A whole kernel in one dimension, [o₂, i₂, k]."""
    w1, w2 = numbers(rows, 2), numbers(4, 5, 3)
    check(lokr(w1, lokr_w2=w2, scale=2.0), 2 * np.kron(w2, w1[:, :, None]).reshape(4 * rows, -1))
