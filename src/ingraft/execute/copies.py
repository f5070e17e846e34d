"""The untouched tensors of a file of weights, copied as runs of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint.transfer import CHUNK, copy_bytes
from ingraft.execute.writing import Writing
from ingraft.steps import OutputShard


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
    """The untouched tensors of a shard whose first tensor lies at byte `position`, neighbours joined."""
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


def copy_jobs(shard: OutputShard, writing: Writing) -> Iterator[Future[int]]:
    """One job for each piece of a run; its result is how many of its bytes were cloned."""
    target = writing.folder / shard.file

    def copy(piece: CopyRun) -> int:
        source, output = writing.files.get(piece.source), writing.files.get(target, "r+b")
        cloned = copy_bytes(source, piece.start, output, piece.position, piece.count)
        writing.written(target, piece.position, piece.count)
        return cloned

    for run in copy_runs(shard, len(shard.header())):
        for piece in run.pieces():
            yield writing.pool.submit(copy, piece)
