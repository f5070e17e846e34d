"""The tensors that are not copied, block by block on a pool of threads.

Every thread works in its own reused buffers and with one torch thread: fresh large tensors cost more in page faults
than the arithmetic itself, and torch's own threads wait for each other at every small operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

import torch

from ingraft.checkpoint.transfer import OpenFiles
from ingraft.execute.block import BlockJob, Buffers, edit_block, part_jobs
from ingraft.execute.figures import BlockFigures
from ingraft.execute.in_memory import merged_parameters
from ingraft.execute.inputs import FormulaCache
from ingraft.steps import MergePlan, MergeStep

Measured = tuple[MergeStep, BlockFigures]


def edit_jobs(
    plan: MergePlan, folder: Path, files: OpenFiles, pool: Executor, written: Callable[[Path, int, int], None]
) -> Iterator[Future[Measured]]:
    """One job for each block, in the order of the files' bytes."""
    memory = merged_parameters(plan) if plan.route == "in-memory" else {}
    buffers = Buffers()

    def edit(job: BlockJob, cache: FormulaCache, target: Path) -> Measured:
        measured = edit_block(job, cache, files, target, buffers)
        cache.done()
        written(target, *job.place)
        return job.step, measured

    for shard in plan.shards:
        position = len(shard.header())
        for step in shard.steps:
            if step.action != "copy":
                parts = part_jobs(step, position)
                cache = FormulaCache(files, step, len(parts), memory)
                for part in parts:
                    yield pool.submit(edit, part, cache, folder / shard.file)
            position += step.nbytes


@contextmanager
def one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
