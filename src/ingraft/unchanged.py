"""Files that are read more than once have to stay as they are meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ingraft.errors import CheckFailed


@contextmanager
def unchanged(paths: Iterable[Path]) -> Iterator[None]:
    """CheckFailed for a file that was replaced, removed, cut off or written to in the block."""
    before = {path: _stamp(path) for path in paths}
    try:
        yield
    except EOFError:  # if it is for this, this is what to say
        _compare(before)
        raise
    _compare(before)


def _compare(before: Mapping[Path, tuple[int, ...] | None]) -> None:
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
