"""What is done to bfloat16 in one pass, in C and in numpy: the same, and what torch does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compiler import compiled
from helpers.tensors import as_tensor
from ingraft.kernels import bfloat16, in_numpy
from ingraft.kernels.buffers import Array

SIZES = [0, 1, 63, 64, 65, 4095, 4097, 300_001]  # around what is added up in one go


@pytest.fixture(scope="module", params=["in_numpy", "_bfloat16"])
def kernel(request: pytest.FixtureRequest) -> ModuleType:
    return in_numpy if request.param == "in_numpy" else compiled(request.param)


def test_the_compiled_one_is_taken() -> None:
    assert (bfloat16.chosen is not in_numpy) == bfloat16.COMPILED


def numbers(size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def stored(size: int, seed: int = 1) -> Array:
    return torch.from_numpy(numbers(size, seed)).bfloat16().view(torch.uint16).numpy()


def test_every_bfloat16_is_widened_exactly(kernel: ModuleType) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    into = np.empty(every.size, np.float32)

    kernel.widen(every, into)

    assert np.array_equal(into, as_tensor(every, "BF16").float().numpy(), equal_nan=True)


@pytest.mark.parametrize("size", SIZES)
def test_rounded_to_the_nearest(kernel: ModuleType, size: int) -> None:
    values, into = numbers(size), np.empty(size, np.uint16)

    kernel.round_to_nearest(values, into)

    assert as_tensor(into, "BF16").equal(torch.from_numpy(values).bfloat16())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(bits=st.lists(st.integers(0, 0xFFFFFFFF), min_size=1, max_size=200))
def test_any_bits_are_rounded_as_torch_rounds_them(kernel: ModuleType, bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    values[np.isnan(values)] = 1.0
    into = np.empty(values.size, np.uint16)

    kernel.round_to_nearest(values, into)

    assert as_tensor(into, "BF16").equal(torch.from_numpy(values).bfloat16())


@pytest.mark.parametrize("size", SIZES)
def test_measured(kernel: ModuleType, size: int) -> None:
    before = stored(size)
    base = as_tensor(before, "BF16").double().numpy()
    values = (base + 0.01 * numbers(size, 2)).astype(np.float32)
    values[: size // 3] = base[: size // 3]  # some that do not change
    into = np.empty(size, np.uint16)

    result, norm, delta, loss, changed = kernel.round_and_measure(values, before, into)

    rounded = torch.from_numpy(values).bfloat16()
    exact = values.astype(np.float64)
    assert as_tensor(into, "BF16").equal(rounded)
    assert result == pytest.approx((exact**2).sum(), rel=1e-5)
    assert norm == pytest.approx((base**2).sum(), rel=1e-5)
    assert delta == pytest.approx(((exact - base) ** 2).sum(), rel=1e-5)
    assert loss == pytest.approx(((rounded.double().numpy() - exact) ** 2).sum(), rel=1e-5)
    assert changed == np.count_nonzero(into != before)


@pytest.mark.parametrize("size", SIZES)
def test_a_sum_is_rounded_and_measured_as_if_it_had_been_added_before(kernel: ModuleType, size: int) -> None:
    before, delta = stored(size), 0.01 * numbers(size, 2)
    delta[: size // 3] = 0
    sums, expected, into = np.empty(size, np.float32), np.empty(size, np.uint16), np.empty(size, np.uint16)
    kernel.widen(before, sums)
    sums += delta

    measured = kernel.add_and_measure(delta, before, into)

    assert measured == pytest.approx(kernel.round_and_measure(sums, before, expected), rel=1e-6)
    assert np.array_equal(into, expected)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3.4e38])
@pytest.mark.parametrize("place", [0, 70, 4999])
def test_a_number_that_is_not_finite_is_in_the_sum(kernel: ModuleType, number: float, place: int) -> None:
    values = numbers(5000)
    values[place] = number

    with np.errstate(all="ignore"):
        for measure in (kernel.round_and_measure, kernel.add_and_measure):
            result, *_ = measure(values, stored(5000), np.empty(5000, np.uint16))
            assert not result < 1e38


@pytest.mark.parametrize(("rows", "width"), [(0, 5), (5, 0), (1, 1), (3, 64), (700, 385), (2, 200_000)])
def test_products_of_rows(kernel: ModuleType, rows: int, width: int) -> None:
    matrix, x = stored(rows * width), numbers(width)
    products, squares = np.full((2, rows), np.nan, np.float32)

    kernel.row_products(matrix, x, products, squares)

    terms = as_tensor(matrix, "BF16").double().numpy().reshape(rows, width) * x.astype(np.float64)
    allowed = 1e-5 * np.sqrt((terms**2).sum(1)) + 1e-12
    assert (np.abs(products - terms.sum(1)) <= allowed * max(width, 1) ** 0.5).all()
    assert squares == pytest.approx((terms**2).sum(1), rel=1e-4)


def test_unfit_arrays_are_refused() -> None:
    """Before anything is read or written beyond them."""
    kernel: Any = compiled("_bfloat16")
    two, four = np.zeros(8, np.uint16), np.zeros(8, np.float32)
    for unfit in (
        lambda: kernel.widen(two, four[:7]),
        lambda: kernel.widen(two.view(np.uint8)[:15], four),
        lambda: kernel.round_to_nearest(four, two[:7]),
        lambda: kernel.round_and_measure(four, two[:7], two),
        lambda: kernel.round_and_measure(four, two, two[:7]),
        lambda: kernel.add_and_measure(four, two[:7], two),
        lambda: kernel.add_and_measure(four, two, two[:7]),
        lambda: kernel.row_products(two, four[:4], four[:3], four[:3]),
        lambda: kernel.row_products(two, four[:4], four[:2], four[:3]),
    ):
        with pytest.raises(ValueError, match="sizes do not fit"):
            unfit()
    with pytest.raises(TypeError, match="expected 2 arrays, not 3"):
        kernel.widen(two, four, four)
    with pytest.raises(TypeError, match="bytes-like"):
        kernel.widen(two, "text")
    with pytest.raises(ValueError, match="contiguous"):
        kernel.widen(two[::2], four[:4])
    two.flags.writeable = False
    with pytest.raises((BufferError, ValueError), match="read-only"):
        kernel.round_to_nearest(four, two)
