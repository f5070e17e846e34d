"""Bringing what was written to the disk while more is being written: it then has little left to do in the end."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# Often enough for a fast disk not to idle; each time the file system has its books to keep as well.
_BYTES = 128 * 1024 * 1024


class Flush:
    """Calls fsync again and again, on a thread of its own, on files that are told of as they grow.

    sizes  by file, what it has when it is complete: the last of it is not waited for
    """

    def __init__(self, sizes: Mapping[Path, int]) -> None:
        self._changed = threading.Condition()
        self._missing = dict(sizes)
        self._waiting: dict[Path, int] = {}  # bytes that no fsync has seen
        self._unneeded: set[Path] = set()
        self._ended = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="fsync", daemon=True)
        self._thread.start()

    def written(self, path: Path, count: int) -> None:
        """`count` more bytes of `path` are written."""
        with self._changed:
            self._waiting[path] = self._waiting.get(path, 0) + count
            self._missing[path] -= count
            if self._is_due(path):
                self._changed.notify()

    def let_go(self, path: Path) -> None:
        """A file that is complete is not read again: once it is on the disk, its memory may serve for something else.

        Otherwise the system keeps what was written last, in place of what is still to be read.
        """
        with self._changed:
            self._unneeded.add(path)
            self._waiting.setdefault(path, 0)
            self._changed.notify()

    def wait(self) -> None:
        """Until all is on the disk. Raises the disk's error."""
        self._end()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Leave the rest to the system, and have no file open any more."""
        with self._changed:
            self._waiting.clear()
        self._end()

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _is_due(self, path: Path) -> bool:
        return self._waiting[path] >= _BYTES or self._missing[path] <= 0

    def _run(self) -> None:
        try:
            while path := self._next():
                fsync(path)
                if path in self._unneeded:
                    leave_memory(path)
        except OSError as error:
            self._error = error

    def _next(self) -> Path | None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended or any(map(self._is_due, self._waiting)))
            if not self._waiting:
                return None
            path = max(self._waiting, key=lambda path: (self._is_due(path), self._waiting[path]))
            del self._waiting[path]
            return path


@contextmanager
def flushing(sizes: Mapping[Path, int]) -> Iterator[Flush]:
    """A Flush for the block, at whose end everything is on the disk; given up where the block fails."""
    flush = Flush(sizes)
    try:
        yield flush
    except BaseException:
        flush.give_up()
        raise
    flush.wait()


def fsync(path: Path) -> None:
    """fsync a file or a directory."""
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def leave_memory(path: Path) -> None:
    """Ask the system to keep nothing of a file in memory; what is not on the disk yet stays. It may do otherwise."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
