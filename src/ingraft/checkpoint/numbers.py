"""Stored numbers as numpy sees them. bfloat16, which numpy does not know, is read and written as its 16 bits.

A plain LoRA merge needs nothing else: importing torch takes longer than merging a model of a gigabyte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ingraft.kernels import bfloat16
from ingraft.kernels.buffers import Array, Buffers

STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(np.uint16),
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
# The distance from 1 to the next number.
EPSILON: Mapping[str, float] = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
# What numpy converts one element at a time; torch, where it is loaded, converts many, to the same bits.
SLOW = ("F16",)

_own = Buffers()


def widen(stored: Array, dtype: str, into: Array) -> Array:
    """Write the numbers of `stored`, of the stored dtype `dtype`, into `into` (float32 or float64); returns that."""
    return _convert(stored, into, dtype, _widen_bfloat16)


def narrow(values: Array, dtype: str, into: Array) -> Array:
    """Round `values` (float32 or float64), to nearest and ties to even, to the stored dtype of `into`; returns that."""
    return _convert(values, into, dtype, _round_to_bfloat16)


def _convert(source: Array, target: Array, dtype: str, of_bfloat16: Callable[[Array, Array], None]) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # beyond the dtype is infinity, a NaN stays one
        if dtype == "BF16":
            of_bfloat16(source, target)
        elif dtype in SLOW:
            _convert_slow(source, target)
        else:
            np.copyto(target, source, casting="unsafe")
    return target


def _widen_bfloat16(stored: Array, into: Array) -> None:
    direct = into.dtype == np.float32
    values = into if direct else _own.get("values", stored.size, np.float32)
    bfloat16.chosen.widen(np.ascontiguousarray(stored), values)
    if not direct:
        np.copyto(into, values)


def _round_to_bfloat16(values: Array, into: Array) -> None:
    bfloat16.chosen.round_to_nearest(np.ascontiguousarray(values, np.float32), into)


def _convert_slow(source: Array, target: Array) -> None:
    """Between float16 and float32; float64 goes by way of float32, as it does in torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        own = source if source.flags.writeable else source.copy()  # torch has no tensors that are to be read only
        torch.from_numpy(target).copy_(torch.from_numpy(own))
    else:
        np.copyto(target, source.astype(np.float32, copy=False), casting="unsafe")
