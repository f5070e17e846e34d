"""Run a plan: copy untouched runs, edit the rest block by block on a few threads, in memory bounded by a block.

Every thread works in its own reused buffers and with one torch thread: fresh large tensors cost more in page faults
than the arithmetic itself, and torch's own threads wait for each other at every small operation.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from ingraft.checkpoint.transfer import CHUNK, OpenFiles, copy_bytes, open_files, reserve, write_from
from ingraft.execute.block import BlockFigures, BlockJob, Buffers, edit_block, part_jobs
from ingraft.execute.in_memory import merged_parameters
from ingraft.execute.inputs import FormulaCache
from ingraft.steps import MergePlan, MergeStep, OutputShard

Written = Callable[[Path, int, int], None]  # file, position, bytes


@dataclass(frozen=True)
class StepFigures:
    """What an edit did to one tensor, measured while it was made.

    changed        elements whose stored value differs from the base's, of `elements`
    base_norm      ‖W‖, Frobenius
    delta_norm     ‖W′ − W‖ before rounding to the stored dtype
    rounding_loss  ‖stored − W′‖ / ‖W′ − W‖: the share of the delta that the stored dtype could not hold
    """

    tensor: str
    elements: int
    changed: int
    base_norm: float
    delta_norm: float
    rounding_loss: float


@dataclass(frozen=True)
class Execution:
    """cloned  bytes of untouched tensors that the file system shares with the base instead of copying them"""

    figures: tuple[StepFigures, ...]
    cloned: int


def execute(
    plan: MergePlan,
    folder: Path,
    *,
    workers: int | None = None,
    written: Written | None = None,
) -> Execution:
    """Write everything that `plan` names into `folder`, which exists and is empty.

    written  is told, by any thread, which bytes of which file of weights are what they will be; of every byte once
    Raises UnusableInput for NaN or infinity in the adapter or the result, OSError for a failing disk.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with open_files() as files:
            _write_small_files(plan, folder)
            return _write_shards(plan, folder, files, workers or default_workers(), written or _nobody)
    finally:
        torch.set_num_threads(threads)


def _nobody(path: Path, position: int, count: int) -> None:
    pass


def default_workers() -> int:
    """The CPU's cores, at most eight: beyond that a disk, not a core, is what one waits for."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available))


def _write_small_files(plan: MergePlan, folder: Path) -> None:
    for carried in plan.carried:
        target = folder / carried.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(carried.source, target)
    for written in plan.written:
        target = folder / written.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(written.text, encoding="utf-8")


def _write_shards(plan: MergePlan, folder: Path, files: OpenFiles, workers: int, written: Written) -> Execution:
    memory = merged_parameters(plan) if plan.route == "in-memory" else {}
    figures: dict[tuple[str, str], list[BlockFigures]] = {}
    buffers = Buffers()
    cloned: list[int] = []  # appending is safe in threads

    def copy(source: Path, start: int, target: Path, position: int, count: int) -> None:
        cloned.append(copy_bytes(files.get(source), start, files.get(target, "r+b"), position, count))
        written(target, position, count)

    def edit(job: BlockJob, cache: FormulaCache, target: Path, into: list[BlockFigures]) -> None:
        measured = edit_block(job, cache, files, target, buffers)
        cache.done()
        into.append(measured)
        written(target, *job.place)

    with ThreadPoolExecutor(workers, thread_name_prefix="ingraft") as pool:
        jobs: list[Future[None]] = []
        try:
            for shard in plan.shards:
                target = folder / shard.file
                target.parent.mkdir(parents=True, exist_ok=True)
                header = shard.header()
                with target.open("wb") as file:
                    reserve(file, shard.nbytes)
                write_from(files.get(target, "r+b"), 0, header)
                written(target, 0, len(header))
                for run in copy_runs(shard, len(header)):
                    jobs += [
                        pool.submit(copy, piece.source, piece.start, target, piece.position, piece.count)
                        for piece in run.pieces()
                    ]
                position = len(header)
                for step in shard.steps:
                    if step.action != "copy":
                        parts = part_jobs(step, position)
                        into = figures[(shard.file, step.tensor)] = []
                        cache = FormulaCache(files, step, len(parts), memory)
                        jobs += [pool.submit(edit, part, cache, target, into) for part in parts]
                    position += step.nbytes
            done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in done:
                job.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    summaries = tuple(
        _summary(step, figures[(shard.file, step.tensor)])
        for shard in plan.shards
        for step in shard.steps
        if step.action in ("edit", "replace")
    )
    return Execution(summaries, sum(cloned))


@dataclass(frozen=True)
class CopyRun:
    """Bytes that lie together in the base's file and in the output."""

    source: Path
    start: int
    position: int
    count: int

    def pieces(self) -> Iterator[CopyRun]:
        for offset in range(0, self.count, CHUNK):
            count = min(CHUNK, self.count - offset)
            yield CopyRun(self.source, self.start + offset, self.position + offset, count)


def copy_runs(shard: OutputShard, position: int) -> Iterator[CopyRun]:
    """The untouched tensors of a shard, neighbours joined."""
    run: CopyRun | None = None
    for step in shard.steps:
        if step.action == "copy" and step.source is not None and step.nbytes:
            source = step.source
            if (
                run
                and run.source == source.file
                and run.start + run.count == source.start
                and run.position + run.count == position
            ):
                run = CopyRun(run.source, run.start, run.position, run.count + step.nbytes)
            else:
                if run:
                    yield run
                run = CopyRun(source.file, source.start, position, step.nbytes)
        position += step.nbytes
    if run:
        yield run


def _summary(step: MergeStep, blocks: Sequence[BlockFigures]) -> StepFigures:
    delta = sum(block.delta for block in blocks) ** 0.5
    loss = sum(block.loss for block in blocks) ** 0.5
    return StepFigures(
        tensor=step.tensor,
        elements=step.elements,
        changed=sum(block.changed for block in blocks),
        base_norm=sum(block.base for block in blocks) ** 0.5,
        delta_norm=delta,
        rounding_loss=loss / delta if delta else 0.0,
    )
