"""Stored numbers in numpy: the bits that torch would write, whether it is there or not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tensors import DTYPES, as_tensor
from ingraft.checkpoint.numbers import EPSILON, STORED, narrow, widen
from ingraft.kernels.buffers import Buffers

FLOATS = ["F64", "F32", "F16", "BF16"]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("into", [np.float32, np.float64])
def test_every_number_of_two_bytes_is_widened_exactly(dtype: str, into: type) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16).view(STORED[dtype])

    found = widen(stored, dtype, np.empty(stored.size, into))

    assert np.array_equal(found, as_tensor(stored, dtype).to(torch.float64).numpy(), equal_nan=True)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50), st.sampled_from(FLOATS))
def test_any_number_is_rounded_as_torch_rounds_it(numbers: list[float], dtype: str) -> None:
    for kind in (np.float32, np.float64):
        values = np.array(numbers, kind)
        found = narrow(values, dtype, np.empty(values.size, STORED[dtype]))
        assert as_tensor(found, dtype).equal(torch.from_numpy(values).to(DTYPES[dtype]))


def test_ties_go_to_the_even_neighbour() -> None:
    """Every bfloat16 and the middle between it and the next, infinity included."""
    lower = np.arange(0x7F80, dtype=np.uint32)
    middles = ((lower << 16) | 0x8000).view(np.float32)

    found = narrow(middles, "BF16", np.empty(lower.size, np.uint16))

    assert np.array_equal(found, lower + (lower & 1))
    assert np.array_equal(narrow(-middles, "BF16", found), (lower + (lower & 1)) | 0x8000)


def test_many_numbers_go_piece_by_piece() -> None:
    values = np.random.default_rng(0).standard_normal(300_001, dtype=np.float32)

    stored = narrow(values, "BF16", np.empty(values.size, np.uint16))

    assert as_tensor(stored, "BF16").equal(torch.from_numpy(values).bfloat16())
    assert np.array_equal(widen(stored, "BF16", values), as_tensor(stored, "BF16").float().numpy())


def test_float16_without_torch_has_the_same_bits() -> None:
    code = (
        "import sys, numpy as np; from ingraft.checkpoint.numbers import narrow, widen\n"
        "values = np.random.default_rng(0).standard_normal(100_000) * np.logspace(-9, 6, 100_000)\n"
        "if len(sys.argv) > 1: import torch\n"
        "stored = narrow(values, 'F16', np.empty(values.size, np.float16))\n"
        "print(hash(stored.tobytes()), hash(widen(stored, 'F16', values).tobytes()), 'torch' in sys.modules)"
    )
    shown = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *more],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "0"},
        ).stdout.split()
        for more in ([], ["with torch"])
    ]  # fmt: skip

    assert shown[0][:2] == shown[1][:2]
    assert (shown[0][2], shown[1][2]) == ("False", "True")


def test_epsilons() -> None:
    assert {name: torch.finfo(DTYPES[name]).eps for name in FLOATS} == dict(EPSILON)


def test_buffers_are_reused() -> None:
    buffers = Buffers()
    first = buffers.get("work", 100, np.float32)
    second = buffers.get("work", 50, np.uint16)

    assert np.shares_memory(first, second)
    assert (second.size, second.dtype) == (50, np.uint16)
    assert not np.shares_memory(buffers.get("out", 50, np.float32), first)
    assert buffers.get("work", 1000, np.float32).size == 1000
