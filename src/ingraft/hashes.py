"""sha256 of files, on threads of their own: of files that are there, and of files that are still being written."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from ingraft.kernels.sha256 import TWO_AT_ONCE, Sha256, update_both
from ingraft.reading import look_at

_PIECE = 1 << 22  # bytes; many: between two pieces a thread may have to wait for Python code


class FileHashes:
    """sha256 of files in hexadecimal, computed while something else goes on. Leaving it stops what is not done."""

    def __init__(self, workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="sha256")
        self._jobs: dict[Path, Callable[[], str]] = {}
        self._growing: dict[Path, _Growing] = {}
        self._stopped = threading.Event()

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for growing in self._growing.values():
            growing.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, paths: Iterable[Path]) -> None:
        """Begin with `paths`; those that were given before are not read again."""
        for path in paths:
            if path not in self._jobs:
                self._jobs[path] = self._pool.submit(_one, _Pieces(path, _everything, self._stopped)).result

    def follow(self, path: Path, nbytes: int, beside: Path | None = None) -> None:
        """Hash a file of `nbytes` while it is written, as far as `written` has told of it without a gap.

        beside  a file that is there, and hashed at the same pace where two at once are cheaper
        """
        growing = self._growing[path] = _Growing(nbytes)
        pieces = _Pieces(path, growing.wait_beyond, self._stopped)
        if beside is None or beside in self._jobs or not TWO_AT_ONCE:
            self._jobs[path] = self._pool.submit(_one, pieces).result
            self.start([beside] if beside else [])
            return
        both = self._pool.submit(_both, _Pieces(beside, _everything, self._stopped), pieces)
        self._jobs[beside], self._jobs[path] = (lambda: both.result()[0]), (lambda: both.result()[1])

    def written(self, path: Path, position: int, count: int) -> None:
        """`count` bytes at `position` of `path` are what they will be. Nothing for files that are not followed."""
        if path in self._growing:
            self._growing[path].add(position, count)

    def get(self, path: Path) -> str | None:
        """The hash of `path`, waited for; None if it was never started."""
        return self._jobs[path]() if path in self._jobs else None


def _one(pieces: _Pieces) -> str:
    digest = hashlib.sha256()
    with pieces:
        while piece := pieces.next():
            digest.update(piece)
    return digest.hexdigest()


def _both(first: _Pieces, second: _Pieces) -> tuple[str, str]:
    one, other = Sha256(), Sha256()
    with first, second:
        while True:
            a, b = first.next(), second.next()
            if not a and not b:
                return one.hexdigest(), other.hexdigest()
            if len(a) == len(b) == _PIECE:
                update_both(one, a, other, b)
            else:  # the last of a file, or what the longer one has left
                one.update(a)
                other.update(b)


class _Pieces:
    """A file from its start on, in pieces of one size and a last one that may be shorter.

    ready  says, for a position, up to where the file may be read; it waits until that is beyond it
    """

    def __init__(self, path: Path, ready: Callable[[int], int], stopped: threading.Event) -> None:
        self._path, self._ready, self._stopped = path, ready, stopped
        self._file: IO[bytes] | None = None
        self._position = self._end = 0

    def __enter__(self) -> _Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def next(self) -> memoryview:
        """The next piece; an empty one at the end of the file, or where one is not to go on."""
        if self._end < self._position + _PIECE:
            self._end = self._ready(self._position)
        if self._stopped.is_set():
            return memoryview(b"")
        if self._file is None:  # a file that is followed may not have been there before
            self._file = self._path.open("rb", buffering=0)
        end = min(self._end, os.fstat(self._file.fileno()).st_size, self._position + _PIECE)
        piece = look_at(self._file, self._position, max(0, end - self._position))
        self._position += len(piece)
        return piece


def _everything(position: int) -> int:
    return 1 << 62


class _Growing:
    """How far a file is written from its start, by threads that write here and there."""

    def __init__(self, nbytes: int) -> None:
        self._changed = threading.Condition()
        self._nbytes, self._end, self._stopped = nbytes, 0, False
        self._beyond: dict[int, int] = {}  # pieces after a gap, start → stop

    def add(self, position: int, count: int) -> None:
        if not count:
            return
        with self._changed:
            self._beyond[position] = position + count
            while (stop := self._beyond.pop(self._end, None)) is not None:
                self._end = stop
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait_beyond(self, position: int) -> int:
        """The end of what is there, once that is a piece beyond `position`, or the file's end."""
        with self._changed:
            enough = min(position + _PIECE, self._nbytes)
            self._changed.wait_for(lambda: self._stopped or self._end >= enough)
            return self._end
