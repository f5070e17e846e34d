"""Run a plan: copy untouched runs, edit the rest block by block on a few threads, in memory bounded by a block.

Copies need no arithmetic: they run while torch is imported, which takes as long as they do.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.checkpoint.transfer import OpenFiles, copy_bytes, open_files, reserve, write_from
from ingraft.execute.copies import copy_runs
from ingraft.execute.figures import StepFigures, step_figures
from ingraft.startup import importing_torch
from ingraft.steps import MergePlan

Written = Callable[[Path, int, int], None]  # file, position, bytes


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
    written = written or _nobody
    with open_files() as files, _pool(workers or default_workers()) as pool:
        _write_small_files(plan, folder)
        _begin_shards(plan, folder, files, written)
        copies = list(_copy_jobs(plan, folder, files, pool, written))
        with importing_torch():
            from ingraft.execute.edits import edit_jobs, one_torch_thread
        with one_torch_thread():
            edits = list(edit_jobs(plan, folder, files, pool, written))
            _finish([*copies, *edits])
    return Execution(step_figures(plan, (job.result() for job in edits)), sum(job.result() for job in copies))


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


def _begin_shards(plan: MergePlan, folder: Path, files: OpenFiles, written: Written) -> None:
    """Every file of weights with its size and its header."""
    for shard in plan.shards:
        target = folder / shard.file
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            reserve(file, shard.nbytes)
        header = shard.header()
        write_from(files.get(target, "r+b"), 0, header)
        written(target, 0, len(header))


def _copy_jobs(
    plan: MergePlan, folder: Path, files: OpenFiles, pool: Executor, written: Written
) -> Iterator[Future[int]]:
    """Jobs whose results are the bytes that were cloned."""

    def copy(source: Path, start: int, target: Path, position: int, count: int) -> int:
        cloned = copy_bytes(files.get(source), start, files.get(target, "r+b"), position, count)
        written(target, position, count)
        return cloned

    for shard in plan.shards:
        for run in copy_runs(shard, len(shard.header())):
            for piece in run.pieces():
                yield pool.submit(copy, piece.source, piece.start, folder / shard.file, piece.position, piece.count)
