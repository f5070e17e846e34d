"""One block of one tensor: read, to float32 or float64, through the formulas, rounded once, written."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ingraft.checkpoint.transfer import OpenFiles, read_into, write_from
from ingraft.errors import UnusableInput
from ingraft.execute.figures import BlockFigures
from ingraft.execute.inputs import BLOCK_ELEMENTS, TORCH_DTYPES, FormulaCache, arithmetic, does_not_fit
from ingraft.steps import REPLACE, Edit, MergeStep

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
        size = TORCH_DTYPES[self.step.dtype].itemsize
        return self.position + self.start * size, (self.stop - self.start) * size


class Buffers(threading.local):
    """Reused memory of one thread: pages that were touched once stay mapped."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """`count` elements of `dtype`, with whatever was in them before."""
        size = torch.empty((), dtype=dtype).element_size()
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count * size:
            kept = self._kept[name] = torch.empty(max(count * size, BLOCK_ELEMENTS * size), dtype=torch.uint8)
        return kept[: count * size].view(dtype)


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


def edit_block(job: BlockJob, cache: FormulaCache, files: OpenFiles, target: Path, buffers: Buffers) -> BlockFigures:
    """Make and write one block; returns what it did. Raises UnusableInput when a number is not finite."""
    step, count = job.step, job.stop - job.start
    stored = TORCH_DTYPES[step.dtype]
    work_dtype = arithmetic(step)
    base = _read_base(job, files, buffers, work_dtype)
    work = buffers.get("work", count, work_dtype)
    if base is None:
        work.zero_()
    else:
        work.copy_(base)
    result = work
    for index in job.edits:
        result = _apply(step.edits[index], cache, index, result, job)
    result = result.reshape(-1)
    out = buffers.get("out", count, stored)
    out.copy_(result)
    norm, delta, loss, changed = _measure(result, base, out, buffers)
    # One element that is not finite makes these sums so; the element-wise test costs more than all of the above.
    if not math.isfinite(delta + loss):
        _refuse_not_finite(step, result, out)
    write_from(files.get(target, "r+b"), job.place[0], out.view(torch.uint8).numpy())
    return BlockFigures(norm, delta, loss, changed) if job.edits else BlockFigures(0.0, 0.0, 0.0, 0)


def _refuse_not_finite(step: MergeStep, result: Tensor, out: Tensor) -> None:
    """Raise UnusableInput if an element is not finite. (Squares of finite ones can be too large: no fault.)"""
    if not torch.isfinite(result).all():
        raise UnusableInput(
            f"Merging gives NaN or infinity in {step.tensor}.", hint="The adapter diverged, or fits another base."
        )
    if not torch.isfinite(out).all():
        raise UnusableInput(
            f"Merging gives numbers in {step.tensor} that {str(out.dtype).removeprefix('torch.')} cannot hold.",
            hint="Merge with --dtype float32.",
        )


def _read_base(job: BlockJob, files: OpenFiles, buffers: Buffers, work: torch.dtype) -> Tensor | None:
    """The base's elements of the block in their stored dtype; None where the adapter alone decides."""
    step, count = job.step, job.stop - job.start
    if step.source is None or step.source.shape != step.shape:
        return None
    dtype = TORCH_DTYPES[step.source.dtype]
    raw = buffers.get("raw", count, dtype)
    start = step.source.start + job.start * raw.element_size()
    read_into(files.get(step.source.file), start, raw.view(torch.uint8).numpy())
    return raw


def _apply(edit: Edit, cache: FormulaCache, index: int, result: Tensor, job: BlockJob) -> Tensor:
    built = cache.get(index)
    at, stop = (job.start - edit.elements[0], job.stop - edit.elements[0])
    try:
        if edit.part == "bias":
            return built(result.reshape(-1), slice(*edit.rows))
        if edit.transposed:
            out = edit.rows[1] - edit.rows[0]
            turned = result.reshape(-1, out).T.contiguous() if edit.formula != REPLACE else result
            merged = built(turned, slice(*edit.rows))
            return merged.T.contiguous() if edit.formula != REPLACE else merged
        width = edit.shape[1]
        first = edit.rows[0]
        rows = slice(first + at // width, first + stop // width)
        return built(result.reshape(-1, width), rows)
    except RuntimeError as error:
        raise does_not_fit(edit, error) from None


def _measure(result: Tensor, base: Tensor | None, out: Tensor, buffers: Buffers) -> tuple[float, float, float, int]:
    """Sums of squares of W, of W′ − W, of stored − W′, and how many stored values differ from the base's."""
    scratch = buffers.get("scratch", result.numel(), result.dtype)
    loss = _square(scratch.copy_(out).sub_(result)) if out.dtype != result.dtype else 0.0
    if base is None:
        return 0.0, _square(result), loss, result.numel()
    scratch.copy_(base)
    norm = _square(scratch)
    delta = _square(scratch.sub_(result))
    before = base if base.dtype == out.dtype else base.to(out.dtype)
    differs = buffers.get("differs", result.numel(), torch.bool).numpy()
    np.not_equal(_bits(before), _bits(out), out=differs)
    return norm, delta, loss, int(np.count_nonzero(differs))


def _bits(values: Tensor) -> np.ndarray[Any, Any]:
    """The elements as integers: numpy compares and counts them ten times faster than torch compares bfloat16."""
    return values.view(_INTEGERS[values.element_size()]).numpy()


def _square(values: Tensor) -> float:
    return float(torch.dot(values, values))
