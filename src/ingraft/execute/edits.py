"""The tensors that are not copied, block by block on a pool of threads.

Every thread works in its own reused buffers: fresh large arrays cost more in page faults than the arithmetic itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

from ingraft.execute.block import BlockJob, edit_block, part_jobs
from ingraft.execute.figures import Measured
from ingraft.execute.inputs import FormulaCache, Memory
from ingraft.execute.writing import Writing
from ingraft.kernels.buffers import Buffers
from ingraft.steps import OutputShard


def edit_jobs(
    shard: OutputShard, writing: Writing, memory: Memory, *, measured: bool = True
) -> Iterator[Future[Measured]]:
    """One job for each block of a file of weights, in the order of its bytes."""
    target, buffers = writing.folder / shard.file, Buffers()

    def edit(job: BlockJob, cache: FormulaCache) -> Measured:
        figures = edit_block(job, cache, writing.files, target, buffers, measured=measured)
        cache.done()
        writing.written(target, *job.place)
        return job.step, figures

    position = len(shard.header())
    for step in shard.steps:
        if step.action != "copy":
            parts = part_jobs(step, position)
            cache = FormulaCache(writing.files, step, len(parts), memory)
            for part in parts:
                yield writing.pool.submit(edit, part, cache)
        position += step.nbytes
