"""sha256 of files, on threads of their own: of files that are there, and of files that are still being written."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_BUFFER_BYTES = 1 << 22  # large: between two buffers a thread may have to wait for Python code


class FileHashes:
    """sha256 of files in hexadecimal, computed while something else goes on. Leaving it stops what is not done."""

    def __init__(self, workers: int | None = None) -> None:
        self._pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1), thread_name_prefix="sha256")
        self._jobs: dict[Path, Future[str]] = {}
        self._growing: dict[Path, _Growing] = {}
        self._stopped = False

    def __enter__(self) -> FileHashes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        for growing in self._growing.values():
            growing.stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, paths: Iterable[Path]) -> None:
        """Begin with `paths`; those that were given before are not read again."""
        for path in paths:
            if path not in self._jobs:
                self._jobs[path] = self._pool.submit(self._sha256, path, lambda position: _EVERYTHING)

    def follow(self, path: Path, nbytes: int) -> None:
        """Hash a file of `nbytes` while it is written, as far as `written` has told of it without a gap."""
        growing = self._growing[path] = _Growing(nbytes)
        self._jobs[path] = self._pool.submit(self._sha256, path, growing.wait_beyond)

    def written(self, path: Path, position: int, count: int) -> None:
        """`count` bytes at `position` of `path` are what they will be. Nothing for files that are not followed."""
        if path in self._growing:
            self._growing[path].add(position, count)

    def get(self, path: Path) -> str | None:
        """The hash of `path`, waited for; None if it was never started."""
        return self._jobs[path].result() if path in self._jobs else None

    def _sha256(self, path: Path, ready: Callable[[int], int]) -> str:
        """`ready` says, for a position, up to where the file may be read; it waits until that is beyond it."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        position = end = 0
        file = None
        try:
            while not self._stopped:
                end = ready(position) if end <= position else end
                if file is None:  # a file that is followed may not have been there before
                    file = path.open("rb", buffering=0)
                count = file.readinto(buffer[: min(_BUFFER_BYTES, max(end - position, 0))])
                if not count:
                    break
                digest.update(buffer[:count])
                position += count
        finally:
            if file is not None:
                file.close()
        return digest.hexdigest()


_EVERYTHING = 1 << 62


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
        """The end of what is there, once that is a buffer beyond `position`, or the file's end."""
        with self._changed:
            enough = min(position + _BUFFER_BYTES, self._nbytes)
            self._changed.wait_for(lambda: self._stopped or self._end >= enough)
            return self._end
