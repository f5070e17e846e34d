"""Stored numbers as numpy sees them. bfloat16, which numpy does not know, is read and written as its 16 bits.

A plain LoRA merge needs nothing else: importing torch takes longer than merging a model of a gigabyte.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(np.uint16),
    "I64": np.dtype(np.int64), "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
# The distance from 1 to the next number.
EPSILON: Mapping[str, float] = {"F64": 2.0**-52, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
# What numpy converts one element at a time; torch, where it is loaded, converts many, to the same bits.
SLOW = ("F16",)

_PIECE = 1 << 17  # elements whose intermediate results stay in a core's own cache


class Buffers(threading.local):
    """Reused memory of each thread: pages that were touched once stay mapped."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def get(self, name: str, count: int, dtype: Any) -> Array:
        """`count` elements of `dtype`, with whatever was in them before; valid until `name` is asked for again."""
        nbytes = count * np.dtype(dtype).itemsize
        kept = self._kept.get(name)
        if kept is None or kept.nbytes < nbytes:
            kept = self._kept[name] = np.empty(nbytes, np.uint8)
        return kept[:nbytes].view(dtype)


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
            _in_pieces(of_bfloat16, source, target)
        elif dtype in SLOW:
            _convert_slow(source, target)
        else:
            np.copyto(target, source, casting="unsafe")
    return target


def _in_pieces(convert: Callable[[Array, Array], None], source: Array, target: Array) -> None:
    for at in range(0, source.size, _PIECE):
        convert(source[at : at + _PIECE], target[at : at + _PIECE])


def _widen_bfloat16(stored: Array, into: Array) -> None:
    """The bits of a bfloat16 are the first half of the same number's float32."""
    direct = into.dtype == np.float32
    bits = into.view(np.uint32) if direct else _own.get("bits", stored.size, np.uint32)
    np.copyto(bits, stored)
    np.left_shift(bits, 16, out=bits)
    if not direct:
        np.copyto(into, bits.view(np.float32))


def _round_to_bfloat16(values: Array, into: Array) -> None:
    """Half of the last kept bit is added, less one where that bit is 0, and the rest cut off. (NaN is not kept.)"""
    if values.dtype != np.float32:
        values = values.astype(np.float32)
    bits = values.view(np.uint32)
    rounded = _own.get("bits", values.size, np.uint32)
    np.right_shift(bits, 16, out=rounded)
    np.bitwise_and(rounded, 1, out=rounded)
    np.add(rounded, 0x7FFF, out=rounded)
    np.add(rounded, bits, out=rounded)
    np.right_shift(rounded, 16, out=rounded)
    np.copyto(into, rounded, casting="unsafe")


def _convert_slow(source: Array, target: Array) -> None:
    """Between float16 and float32; float64 goes by way of float32, as it does in torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.from_numpy(target).copy_(torch.from_numpy(source))
    else:
        np.copyto(target, source.astype(np.float32, copy=False), casting="unsafe")
