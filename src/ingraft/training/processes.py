"""A run of several processes, as `torchrun` and `accelerate launch` start them: what they are told, and who writes.

Every process reads the data, loads the base and measures; all of them train, each on its part of every batch; the
first one alone writes, and is the one that speaks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.publish import published


@dataclass(frozen=True)
class Processes:
    """`count` processes, of which this one is number `rank`."""

    count: int = 1
    rank: int = 0

    @property
    def writes(self) -> bool:
        return self.rank == 0

    @contextmanager
    def output(self, output: Path, *, overwrite: bool) -> Iterator[Path]:
        """Where to save: what becomes `output`, or, for all but the first process, a directory that vanishes."""
        if self.writes:
            with published(output, overwrite=overwrite) as folder:
                yield folder
        else:
            with tempfile.TemporaryDirectory(prefix="ingraft-training-") as folder:
                yield Path(folder)


def these_processes() -> Processes:
    """What the launcher says in the environment. UnusableInput for what would split the base model's weights."""
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(name, "false").lower() in ("true", "1", "yes"):
            raise UnusableInput(
                f"Training with {what} is not supported: it splits the base model and the adapter with it.",
                hint="Start several processes without it: torchrun --nproc-per-node N -m ingraft train …",
            )
    return Processes(_number("WORLD_SIZE", 1), _number("RANK", 0))


def rows_for_each(batch_size: int, processes: Processes) -> int:
    """Rows of a batch that each process takes; UnusableInput when they are not equally many."""
    if batch_size % processes.count:
        raise UnusableInput(
            f"--batch-size is {batch_size}, which {processes.count} processes cannot share equally.",
            hint=f"Take a multiple of {processes.count}.",
        )
    return batch_size // processes.count


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdigit() else default
