"""Run a plan: copy untouched runs, edit the rest block by block on a few threads, in memory bounded by a block.

Copies need no arithmetic: they run while numpy is imported, or torch, which takes as long as they do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.checkpoint.transfer import open_files, reserve, write_from
from ingraft.execute.copies import copy_jobs
from ingraft.execute.figures import Measured, StepFigures, step_figures
from ingraft.execute.writing import Writing, Written
from ingraft.startup import importing_torch
from ingraft.steps import REPLACE, ZERO, MergePlan, OutputShard
from ingraft.threads import one_thread_each

if TYPE_CHECKING:
    from ingraft.execute.inputs import Memory


@dataclass(frozen=True)
class Execution:
    """What was done.

    figures  by edited tensor; none where nothing was measured
    moved    was any weight to change, before it was rounded to its stored dtype?
    changed  is any stored number another than the base's?
    cloned   bytes of untouched tensors that the file system shares with the base instead of copying them
    """

    figures: tuple[StepFigures, ...]
    moved: bool
    changed: bool
    cloned: int


def execute(
    plan: MergePlan,
    folder: Path,
    *,
    workers: int | None = None,
    measured: bool = True,
    written: Written | None = None,
    finished: Callable[[OutputShard], None] | None = None,
) -> Execution:
    """Write everything that `plan` names into `folder`, which exists and is empty, one file of weights after another.

    measured  with figures of what the edits did
    written   is told, by any thread, which bytes of which file of weights are what they will be; of every byte once
    finished  is told of each file of weights, when it is complete and before the next is begun
    Raises UnusableInput for NaN or infinity in the adapter or the result, OSError for a failing disk.
    """
    edits: list[Future[Measured]] = []
    copies: list[Future[int]] = []
    edit: Callable[[OutputShard], Iterator[Future[Measured]]] | None = None
    with open_files() as files, _pool(workers or default_workers()) as pool, ExitStack() as arithmetic:
        writing = Writing(folder, files, pool, written or _nobody)
        _write_small_files(plan, folder)
        _begin_shards(plan, writing)
        for shard in plan.shards:
            copying = list(copy_jobs(shard, writing))
            if edit is None:  # while the first file's copies are made
                edit = arithmetic.enter_context(_editing(plan, writing, measured))
            editing = list(edit(shard))
            _finish([*copying, *editing])
            copies += copying
            edits += editing
            if finished:
                finished(shard)
    results = [job.result() for job in edits]
    return Execution(
        figures=step_figures(plan, results) if measured else (),
        moved=any(block is None or block.delta for _, block in results),
        changed=any(block is None or block.changed for _, block in results),
        cloned=sum(job.result() for job in copies),
    )


@contextmanager
def _editing(
    plan: MergePlan, writing: Writing, measured: bool
) -> Iterator[Callable[[OutputShard], Iterator[Future[Measured]]]]:
    """What makes the jobs that edit a file. Imports what their arithmetic is done with, which takes a while."""
    if needs_torch(plan):
        with importing_torch():
            import torch  # noqa: F401
    from ingraft.execute.edits import edit_jobs

    with one_thread_each():
        merged = _merged_by_peft(plan)
        yield lambda shard: edit_jobs(shard, writing, merged, measured=measured)


def _merged_by_peft(plan: MergePlan) -> Memory:
    """The parameters that PEFT merges by itself, in memory."""
    if plan.route != "in-memory":
        return {}
    from ingraft.execute.in_memory import merged_parameters

    return merged_parameters(plan)


def needs_torch(plan: MergePlan) -> bool:
    """Is a formula written with torch, or are there many numbers that numpy converts slowly?"""
    from ingraft.checkpoint.numbers import SLOW
    from ingraft.methods.table import takes_arrays

    return any(
        step.dtype in SLOW
        or (step.source is not None and step.source.dtype in SLOW)
        or any(edit.formula not in (REPLACE, ZERO) and not takes_arrays(edit.formula) for edit in step.edits)
        for step in plan.steps()
        if step.action != "copy"
    )


def _nobody(path: Path, position: int, count: int) -> None:
    pass


def default_workers() -> int:
    """The CPU's cores, at most eight: beyond that a disk, not a core, is what one waits for."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, available))


@contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    """Threads whose jobs that did not begin are given up when the block fails."""
    with ThreadPoolExecutor(workers, thread_name_prefix="ingraft") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _finish(jobs: list[Future[Any]]) -> None:
    """Wait for all; raise what the first to fail raised."""
    done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
    for job in done:
        job.result()


def _write_small_files(plan: MergePlan, folder: Path) -> None:
    for carried in plan.carried:
        target = folder / carried.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(carried.source, target)
    for written in plan.written:
        target = folder / written.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(written.text, encoding="utf-8")


def _begin_shards(plan: MergePlan, writing: Writing) -> None:
    """Every file of weights with its size and its header."""
    for shard in plan.shards:
        target = writing.folder / shard.file
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            reserve(file, shard.nbytes)
        header = shard.header()
        write_from(writing.files.get(target, "r+b"), 0, header)
        writing.written(target, 0, len(header))
