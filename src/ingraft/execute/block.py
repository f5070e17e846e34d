"""One block of one tensor: read, to float32 or float64, through the formulas, rounded once, written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ingraft.checkpoint.numbers import STORED, widen
from ingraft.checkpoint.stored import stored_elements
from ingraft.checkpoint.transfer import OpenFiles, write_from
from ingraft.execute.figures import BlockFigures
from ingraft.execute.inputs import BLOCK_ELEMENTS, FormulaCache, arithmetic, does_not_fit
from ingraft.execute.rounding import measures_in_passing, rounded, rounded_sum
from ingraft.kernels.buffers import Array, Buffers
from ingraft.methods.arrays import AddedProduct
from ingraft.steps import REPLACE, Edit, MergeStep


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
    step = job.step
    with np.errstate(all="ignore"):  # what is not finite is found in the end
        base = _read_base(job, files, buffers)
        work = buffers.get("work", job.stop - job.start, arithmetic(step))
        if (
            base is not None
            and measures_in_passing(step, work.dtype, measured=measured)
            and _multiplied(job, cache, into=work)
        ):
            out, figures = rounded_sum(step, work, base, buffers, measured=measured)
        else:
            out, figures = rounded(step, _edited(job, base, cache, work), base, buffers, measured=measured)
    write_from(files.get(target, "r+b"), job.place[0], out)
    return figures if job.edits else BlockFigures(0.0, 0.0, 0.0, 0)


def _read_base(job: BlockJob, files: OpenFiles, buffers: Buffers) -> Array | None:
    """The base's elements of the block as they are stored; None where the adapter alone decides."""
    step = job.step
    if step.source is None or step.source.shape != step.shape:
        return None
    return stored_elements(files, step.source, job.start, job.stop, buffers, "raw")


def _multiplied(job: BlockJob, cache: FormulaCache, into: Array) -> bool:
    """Is it all that is done to the block that a product is added? Then `into` has the product."""
    if len(job.edits) != 1:
        return False
    edit, added = job.step.edits[job.edits[0]], cache.get(job.edits[0])
    if edit.transposed or not isinstance(added, AddedProduct):
        return False
    try:
        np.matmul(added.left[_rows(edit, job)], added.right, out=into.reshape(-1, edit.shape[1]))
    except ValueError:  # the formula says what does not fit
        return False
    return True


def _edited(job: BlockJob, base: Array | None, cache: FormulaCache, work: Array) -> Array:
    """What the block's formulas make of `base`, flat; `work` is what they work in."""
    if base is None:
        work.fill(0)
    else:
        assert job.step.source is not None
        widen(base, job.step.source.dtype, work)
    result = work
    for index in job.edits:
        result = _apply(job.step.edits[index], cache, index, result, job)
    return result.reshape(-1)


def _apply(edit: Edit, cache: FormulaCache, index: int, result: Array, job: BlockJob) -> Array:
    built = cache.get(index)
    try:
        if edit.part == "bias":
            return built(result.reshape(-1), slice(*edit.rows))
        if edit.transposed:
            out = edit.rows[1] - edit.rows[0]
            turned = np.ascontiguousarray(result.reshape(-1, out).T) if edit.formula != REPLACE else result
            merged = built(turned, slice(*edit.rows))
            return np.ascontiguousarray(merged.T) if edit.formula != REPLACE else merged
        return built(result.reshape(-1, edit.shape[1]), _rows(edit, job))
    except (RuntimeError, ValueError) as error:  # of torch, of numpy
        raise does_not_fit(edit, error) from None


def _rows(edit: Edit, job: BlockJob) -> slice:
    """The rows of the edit's matrix that the block has."""
    start, width = edit.elements[0], edit.shape[1]
    return slice(edit.rows[0] + (job.start - start) // width, edit.rows[0] + (job.stop - start) // width)
