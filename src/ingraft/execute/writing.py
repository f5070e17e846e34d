"""Where a merge writes, on which threads, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint.transfer import OpenFiles

Written = Callable[[Path, int, int], None]  # file, position, bytes


@dataclass(frozen=True)
class Writing:
    """`written` is told, by any thread, which bytes of which file are what they will be."""

    folder: Path
    files: OpenFiles
    pool: Executor
    written: Written
