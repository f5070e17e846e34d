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
from ingraft.execute.rounding import rounded
from ingraft.kernels.buffers import Array, Buffers
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
        out, figures = rounded(step, result.reshape(-1), base, buffers, measured=measured)
    write_from(files.get(target, "r+b"), job.place[0], out)
    return figures if job.edits else BlockFigures(0.0, 0.0, 0.0, 0)


def _read_base(job: BlockJob, files: OpenFiles, buffers: Buffers) -> Array | None:
    """The base's elements of the block as they are stored; None where the adapter alone decides."""
    step = job.step
    if step.source is None or step.source.shape != step.shape:
        return None
    return stored_elements(files, step.source, job.start, job.stop, buffers, "raw")


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
