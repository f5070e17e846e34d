"""One block of one tensor: read, to float32 or float64, through the formulas, rounded once, written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingraft.checkpoint import dtype_name
from ingraft.checkpoint.numbers import STORED, Array, Buffers, narrow, widen
from ingraft.checkpoint.transfer import OpenFiles, read_into, write_from
from ingraft.errors import UnusableInput
from ingraft.execute.figures import BlockFigures
from ingraft.execute.inputs import BLOCK_ELEMENTS, FormulaCache, arithmetic, does_not_fit
from ingraft.steps import REPLACE, Edit, MergeStep

# A sum of squares below this has no element that the dtype cannot hold.
_SAFE = {"F64": math.inf, "F32": 1e38, "BF16": 1e38, "F16": 65504.0**2}
_GLANCE = 4096  # where a change is seen, as a rule


@dataclass(frozen=True)
class BlockJob:
    """Elements [start, stop) of a step's tensor, which lies at byte `position` of its file; `edits` by index."""

    step: MergeStep
    position: int
    start: int
    stop: int
    edits: tuple[int, ...]

    @property
    def place(self) -> tuple[int, int]:
        """The block's first byte in the output's file, and how many bytes it has."""
        size = STORED[self.step.dtype].itemsize
        return self.position + self.start * size, (self.stop - self.start) * size


def part_jobs(step: MergeStep, position: int) -> list[BlockJob]:
    """Cut a step into blocks of whole rows; elements that no edit covers are cast only."""
    parts: dict[tuple[int, int], list[int]] = {}
    for index, edit in enumerate(step.edits):
        parts.setdefault(edit.elements, []).append(index)
    jobs: list[BlockJob] = []
    covered = 0
    for (start, stop), indices in sorted(parts.items()):
        jobs += _cut(step, position, covered, start, (), 1)
        edits = [step.edits[index] for index in indices]
        whole = any(edit.transposed or edit.part == "bias" for edit in edits)
        jobs += _cut(step, position, start, stop, tuple(indices), stop - start if whole else edits[0].shape[1])
        covered = stop
    return jobs + _cut(step, position, covered, step.elements, (), 1)


def _cut(step: MergeStep, position: int, start: int, stop: int, edits: tuple[int, ...], row: int) -> list[BlockJob]:
    length = max(1, BLOCK_ELEMENTS // max(row, 1)) * max(row, 1)
    return [BlockJob(step, position, at, min(at + length, stop), edits) for at in range(start, stop, length)]


def edit_block(
    job: BlockJob, cache: FormulaCache, files: OpenFiles, target: Path, buffers: Buffers, *, measured: bool = True
) -> BlockFigures | None:
    """Make and write one block; returns what it did. Raises UnusableInput when a number is not finite.

    measured  False: None for a block that was changed, without a look at how much
    """
    step, count = job.step, job.stop - job.start
    with np.errstate(all="ignore"):  # what is not finite is found below
        base = _read_base(job, files, buffers)
        work = buffers.get("work", count, arithmetic(step))
        if base is None:
            work.fill(0)
        else:
            assert step.source is not None
            widen(base, step.source.dtype, work)
        result = work
        for index in job.edits:
            result = _apply(step.edits[index], cache, index, result, job)
        result = result.reshape(-1)
        out = narrow(result, step.dtype, buffers.get("out", count, STORED[step.dtype]))
        # One element that is not finite, or too large, makes the sum so; a test of each costs more than all above.
        if not _square(result) < _SAFE.get(step.dtype, math.inf):
            _refuse_not_finite(step, result, widen(out, step.dtype, buffers.get("scratch", count, result.dtype)))
        write_from(files.get(target, "r+b"), job.place[0], out)
        if not job.edits:
            return BlockFigures(0.0, 0.0, 0.0, 0)
        if not measured and _is_changed(step, base, out):
            return None
        return _measure(step, result, base, out, buffers)


def _refuse_not_finite(step: MergeStep, result: Array, written: Array) -> None:
    """Raise UnusableInput if an element is not finite. (Squares of finite ones can be too large: no fault.)"""
    if not np.isfinite(result).all():
        raise UnusableInput(
            f"Merging gives NaN or infinity in {step.tensor}.", hint="The adapter diverged, or fits another base."
        )
    if not np.isfinite(written).all():
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


def _read_base(job: BlockJob, files: OpenFiles, buffers: Buffers) -> Array | None:
    """The base's elements of the block as they are stored; None where the adapter alone decides."""
    step, count = job.step, job.stop - job.start
    if step.source is None or step.source.shape != step.shape:
        return None
    raw = buffers.get("raw", count, STORED[step.source.dtype])
    read_into(files.get(step.source.file), step.source.start + job.start * raw.itemsize, raw)
    return raw


def _apply(edit: Edit, cache: FormulaCache, index: int, result: Array, job: BlockJob) -> Array:
    built = cache.get(index)
    at, stop = (job.start - edit.elements[0], job.stop - edit.elements[0])
    try:
        if edit.part == "bias":
            return built(result.reshape(-1), slice(*edit.rows))
        if edit.transposed:
            out = edit.rows[1] - edit.rows[0]
            turned = np.ascontiguousarray(result.reshape(-1, out).T) if edit.formula != REPLACE else result
            merged = built(turned, slice(*edit.rows))
            return np.ascontiguousarray(merged.T) if edit.formula != REPLACE else merged
        width = edit.shape[1]
        first = edit.rows[0]
        rows = slice(first + at // width, first + stop // width)
        return built(result.reshape(-1, width), rows)
    except (RuntimeError, ValueError) as error:  # of torch, of numpy
        raise does_not_fit(edit, error) from None


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
