"""Files that are read more than once have to stay as they are meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ingraft.errors import CheckFailed


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """CheckFailed at the end of the block for a file that was replaced, removed or written to in it."""
    before = {path: _stamp(path) for path in paths}
    yield
    for path, stamp in before.items():
        if _stamp(path) != stamp:
            raise CheckFailed(f"{path} was changed while it was merged.", hint="Nothing was published. Merge again.")


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with a file: its place on the disk, its size, and when it was last written."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
