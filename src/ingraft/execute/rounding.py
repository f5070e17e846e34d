"""A block's result, rounded once to what it is stored in, and what the edit and the rounding did."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ingraft.checkpoint import dtype_name
from ingraft.checkpoint.numbers import STORED, narrow, widen
from ingraft.errors import UnusableInput
from ingraft.execute.figures import BlockFigures
from ingraft.kernels import bfloat16
from ingraft.kernels.buffers import Array, Buffers
from ingraft.steps import MergeStep

# A sum of squares below this has no element that the dtype cannot hold.
_SAFE = {"F64": math.inf, "F32": 1e38, "BF16": 1e38, "F16": 65504.0**2}
_GLANCE = 4096  # where a change is seen, as a rule


def rounded(
    step: MergeStep, result: Array, base: Array | None, buffers: Buffers, *, measured: bool
) -> tuple[Array, BlockFigures | None]:
    """The numbers of `result` as the step stores them, and what was done to `base` (stored numbers, None: replaced).

    measured  False: None for a block that was changed, without a look at how much
    Raises UnusableInput when a number is not finite or too large for the dtype.
    """
    out = buffers.get("out", result.size, STORED[step.dtype])
    if base is not None and measures_in_passing(step, result.dtype, measured=measured):
        square, *done = bfloat16.chosen.round_and_measure(result, base, out)
        _refuse_not_finite(step, square, result, out, buffers)
        return out, _figures(done, measured=measured)
    narrow(result, step.dtype, out)
    _refuse_not_finite(step, _square(result), result, out, buffers)
    if not measured and _is_changed(step, base, out):
        return out, None
    return out, _measure(step, result, base, out, buffers)


def rounded_sum(
    step: MergeStep, delta: Array, base: Array, buffers: Buffers, *, measured: bool
) -> tuple[Array, BlockFigures | None]:
    """What `rounded` says of base + `delta` (float32), which is added up and rounded in one pass.

    For steps for which `measures_in_passing` only.
    """
    out = buffers.get("out", delta.size, STORED[step.dtype])
    square, *done = bfloat16.chosen.add_and_measure(delta, base, out)
    if not square < _SAFE[step.dtype]:  # the sum itself tells which fault it is, if it is one
        delta += widen(base, step.dtype, buffers.get("scratch", delta.size, delta.dtype))
        _refuse_not_finite(step, square, delta, out, buffers)
    return out, _figures(done, measured=measured)


def measures_in_passing(step: MergeStep, computed: np.dtype[Any], *, measured: bool) -> bool:
    """Is there a kernel for the step, from bfloat16 to bfloat16 by way of float32, that measures as it rounds?

    In numpy, to measure what nobody asked for would take as long as all else.
    """
    stored = step.source is not None and step.source.dtype == step.dtype == "BF16"
    return stored and computed == np.float32 and (measured or bfloat16.COMPILED)


def _figures(done: Sequence[Any], *, measured: bool) -> BlockFigures | None:
    norm, delta, loss, changed = done
    return BlockFigures(norm, delta, loss, changed) if measured or not changed else None


def _refuse_not_finite(step: MergeStep, square: float, result: Array, out: Array, buffers: Buffers) -> None:
    """Raise UnusableInput if an element is not finite. `square`: the sum of the result's squares.

    One element that is not finite, or too large, makes the sum so; a test of each costs more than all else.
    (Squares of finite ones can be too large: no fault.)
    """
    if square < _SAFE.get(step.dtype, math.inf):
        return
    if not np.isfinite(result).all():
        raise UnusableInput(
            f"Merging gives NaN or infinity in {step.tensor}.", hint="The adapter diverged, or fits another base."
        )
    if not np.isfinite(widen(out, step.dtype, buffers.get("scratch", out.size, result.dtype))).all():
        raise UnusableInput(
            f"Merging gives numbers in {step.tensor} that {dtype_name(step.dtype)} cannot hold.",
            hint="Merge with --dtype float32.",
        )


def _is_changed(step: MergeStep, base: Array | None, out: Array) -> bool:
    """Is a stored number another than the base's, of the same dtype?"""
    if base is None or step.source is None or step.source.dtype != step.dtype:
        return False
    first = slice(_GLANCE)
    return not (np.array_equal(_bits(base[first]), _bits(out[first])) and np.array_equal(_bits(base), _bits(out)))


def _measure(step: MergeStep, result: Array, base: Array | None, out: Array, buffers: Buffers) -> BlockFigures:
    """Sums of squares of W, of W′ − W, of stored − W′, and how many stored values differ from the base's."""
    scratch = buffers.get("scratch", result.size, result.dtype)
    loss = 0.0
    if out.dtype != result.dtype:
        loss = _square(np.subtract(widen(out, step.dtype, scratch), result, out=scratch))
    if base is None:
        return BlockFigures(0.0, _square(result), loss, result.size)
    assert step.source is not None
    norm = _square(widen(base, step.source.dtype, scratch))
    before = base
    if step.source.dtype != step.dtype:
        before = narrow(scratch, step.dtype, buffers.get("before", result.size, out.dtype))
    delta = _square(np.subtract(scratch, result, out=scratch))
    differs = np.not_equal(_bits(before), _bits(out), out=buffers.get("differs", result.size, np.bool_))
    return BlockFigures(norm, delta, loss, int(np.count_nonzero(differs)))


def _bits(values: Array) -> Array:
    """The elements as integers, which compare faster, and NaN with NaN as equal."""
    return values.view(f"i{values.itemsize}")


def _square(values: Array) -> float:
    return float(np.dot(values, values))
