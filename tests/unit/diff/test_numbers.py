"""What is said of two tensors, against the same computed in one piece."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.diff import numbers
from ingraft.diff.numbers import Change, change_of, same_bytes


@pytest.fixture
def stored(tmp_path: Path) -> Callable[[Tensor], TensorInfo]:
    def store(tensor: Tensor) -> TensorInfo:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_file({"t": tensor}, path)
        return read_header(path).tensors[0]

    return store


def change(stored: Callable[[Tensor], TensorInfo], a: Tensor, b: Tensor) -> Change:
    with open_files() as files:
        return change_of(files, stored(a), stored(b))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_numbers_of_a_change(stored, monkeypatch, dtype) -> None:
    monkeypatch.setattr(numbers, "CHUNK_ELEMENTS", 7)  # several blocks, and a short one at the end
    a, b = random(5, 10).to(dtype), random(5, 10).to(dtype)
    b[3, 4:] = random(6, seed=1).to(dtype)

    found = change(stored, a, b)

    difference = b.double() - a.double()
    assert found.elements == 50
    assert found.changed == int((difference != 0).sum()) == 6
    assert found.norm == pytest.approx(float(difference.norm()), rel=1e-12)
    assert found.base_norm == pytest.approx(float(a.double().norm()), rel=1e-12)
    assert found.relative == pytest.approx(float(difference.norm() / a.double().norm()), rel=1e-12)
    assert found.largest == float(difference.abs().max())
    assert found.not_finite == 0


def test_dtypes_are_compared_by_their_numbers(stored) -> None:
    a = torch.tensor([1.0, 1.0 + 2**-10, math.nan, 0.5])

    found = change(stored, a, a.bfloat16())

    assert (found.changed, found.largest, found.not_finite) == (1, 2**-10, 0)


def test_bits_count_where_numbers_are_equal(stored) -> None:
    found = change(stored, torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))

    assert (found.changed, found.norm, found.largest) == (1, 0.0, 0.0)


def test_what_is_not_finite_is_counted_and_left_out(stored) -> None:
    a = torch.tensor([math.nan, math.inf, 3.0, 4.0, 1.0])
    b = torch.tensor([math.nan, 1.0, 3.0, math.nan, 3.0])

    found = change(stored, a, b)

    assert (found.changed, found.not_finite) == (3, 2)
    assert (found.norm, found.largest) == (2.0, 2.0)
    assert found.base_norm == pytest.approx((9 + 16 + 1) ** 0.5)


def test_nothing_is_relative_to_zero(stored) -> None:
    assert change(stored, torch.zeros(3), torch.ones(3)).relative is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers(stored, dtype) -> None:
    a = torch.tensor([0, 1, 1, 0]).to(dtype)
    b = torch.tensor([0, 1, 0, 1]).to(dtype)

    found = change(stored, a, b)

    assert (found.changed, found.largest, found.norm) == (2, 1.0, pytest.approx(2**0.5))


@pytest.mark.parametrize("place", [0, 28, 99])
def test_one_bit_makes_a_difference(stored, monkeypatch, place) -> None:
    monkeypatch.setattr(numbers, "CHUNK_ELEMENTS", 7)
    a = random(100)
    b = a.clone()
    b.view(torch.int32)[place] ^= 1
    left, right, copy = stored(a), stored(b), stored(a.clone())

    with open_files() as files:
        assert same_bytes(files, left, copy)
        assert not same_bytes(files, left, right)
