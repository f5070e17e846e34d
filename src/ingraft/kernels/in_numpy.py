"""The kernels in numpy's operations, several passes each: what they mean, and what runs where none are compiled.

A pass goes over a piece whose intermediate results stay in a core's own cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ingraft.kernels.buffers import Array, Buffers

_PIECE = 1 << 17

_own = Buffers()


def widen(stored: Array, into: Array) -> None:
    """bfloat16 to float32: its bits are the first half of the same number's."""
    for at in _pieces(stored):
        bits = into[at].view(np.uint32)
        np.copyto(bits, stored[at])
        np.left_shift(bits, 16, out=bits)


def round_to_nearest(values: Array, into: Array) -> None:
    """float32 to bfloat16, ties to even. (NaN is not kept.)

    Half of the last kept bit is added, less one where that bit is 0, and the rest cut off.
    """
    for at in _pieces(values):
        bits = values[at].view(np.uint32)
        rounded = _own.get("bits", bits.size, np.uint32)
        np.right_shift(bits, 16, out=rounded)
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, bits, out=rounded)
        np.right_shift(rounded, 16, out=rounded)
        np.copyto(into[at], rounded, casting="unsafe")


def round_and_measure(values: Array, before: Array, into: Array) -> tuple[float, float, float, float, int]:
    """`values` (float32) to bfloat16 as `round_to_nearest`, and what that did to the bfloat16 numbers `before`.

    Sums of squares: of `values`, of `before`, of their difference, of what rounding lost; numbers that changed.
    """
    round_to_nearest(values, into)
    sums, changed = np.zeros(4), 0
    for at in _pieces(values):
        result = values[at]
        base, other = (_own.get(name, result.size, np.float32) for name in ("base", "other"))
        widen(before[at], base)
        widen(into[at], other)
        np.subtract(other, result, out=other)
        loss = np.dot(other, other)
        np.subtract(result, base, out=other)
        sums += (np.dot(result, result), np.dot(base, base), np.dot(other, other), loss)
        changed += int(np.count_nonzero(before[at] != into[at]))
    return (*map(float, sums), changed)  # type: ignore[return-value]


def add_and_measure(delta: Array, before: Array, into: Array) -> tuple[float, float, float, float, int]:
    """`round_and_measure` of the sums `before` + `delta` (float32), which are kept nowhere."""
    sums, changed = np.zeros(4), 0
    for at in _pieces(delta):
        values = _own.get("sum", delta[at].size, np.float32)
        widen(before[at], values)
        np.add(values, delta[at], out=values)
        *part, differ = round_and_measure(values, before[at], into[at])
        sums += part
        changed += differ
    return (*map(float, sums), changed)  # type: ignore[return-value]


def row_products(rows: Array, x: Array, products: Array, squares: Array) -> None:
    """For bfloat16 rows w, one after the other, Σ_j w_j·x_j and Σ_j (w_j·x_j)², in float32."""
    if not x.size:
        products[:], squares[:] = 0, 0
        return
    x_squares, step = x * x, max(1, _PIECE // x.size)
    for first in range(0, products.size, step):
        here = slice(first, min(first + step, products.size))
        stored = rows[here.start * x.size : here.stop * x.size]
        block = _own.get("rows", stored.size, np.float32)
        widen(stored, block)
        block = block.reshape(-1, x.size)
        np.matmul(block, x, out=products[here])
        np.matmul(np.square(block, out=block), x_squares, out=squares[here])


def _pieces(array: Array) -> Iterator[slice]:
    return (slice(at, at + _PIECE) for at in range(0, array.size, _PIECE))
