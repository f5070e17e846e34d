"""One block of one tensor: read, to float32, through the formulas, rounded once, written."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ingraft.checkpoint.transfer import OpenFiles, read_into, write_from
from ingraft.errors import UnusableInput
from ingraft.execute.inputs import BLOCK_ELEMENTS, TORCH_DTYPES, FormulaCache, does_not_fit
from ingraft.steps import REPLACE, Edit, MergeStep


@dataclass(frozen=True)
class BlockJob:
    """Elements [start, stop) of a step's tensor, which lies at byte `position` of its file; `edits` by index."""

    step: MergeStep
    position: int
    start: int
    stop: int
    edits: tuple[int, ...]


@dataclass(frozen=True)
class BlockFigures:
    """Sums of squares over a block (of W, of the delta, of what rounding lost), elements changed, bytes written."""

    base: float
    delta: float
    loss: float
    changed: int
    written: int


class Buffers(threading.local):
    """Reused memory of one thread: pages that were touched once stay mapped."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, count: int, dtype: torch.dtype) -> Tensor:
        """`count` elements of `dtype`, with whatever was in them before."""
        size = torch.empty((), dtype=dtype).element_size()
        kept = self._kept.get(name)
        if kept is None or kept.numel() < count * size:
            kept = self._kept[name] = torch.empty(max(count * size, BLOCK_ELEMENTS * 4), dtype=torch.uint8)
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
    work_dtype = torch.float64 if step.dtype == "F64" else torch.float32
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
    if not torch.isfinite(result).all():
        raise UnusableInput(
            f"Merging gives NaN or infinity in {step.tensor}.", hint="The adapter diverged, or fits another base."
        )
    out = buffers.get("out", count, stored)
    out.copy_(result)
    if stored == torch.float16 and not torch.isfinite(out).all():
        raise UnusableInput(
            f"Merging gives numbers in {step.tensor} that float16 cannot hold.",
            hint="Merge with --dtype float32 or bfloat16.",
        )
    write_from(files.get(target, "r+b"), job.position + job.start * out.element_size(), out.view(torch.uint8).numpy())
    figures = _measure(result, base, out, buffers) if job.edits else (0.0, 0.0, 0.0, 0)
    return BlockFigures(*figures, written=count * out.element_size())


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
    same = buffers.get("same", result.numel(), torch.bool)
    changed = int(torch.ne(out, base if base.dtype == out.dtype else base.to(out.dtype), out=same).sum())
    return norm, delta, loss, changed


def _square(values: Tensor) -> float:
    return float(torch.dot(values, values))
