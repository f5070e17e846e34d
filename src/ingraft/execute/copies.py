"""The untouched tensors of a shard, as runs of bytes to copy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint.transfer import CHUNK
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
