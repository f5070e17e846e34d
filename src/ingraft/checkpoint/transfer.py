"""Bytes between files: positional reads and writes, and copies that stay in the kernel where it can.

Linux calls are an inner detail: with `reading.PORTABLE` plain seeks, reads and writes take their place.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ingraft import reading

CHUNK = 64 * 1024 * 1024
# Measured (ext4, Linux 6.18): writes of a megabyte cost the kernel nearly twice as much as the same in pieces.
_WRITE = 256 * 1024
_REFUSED = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}


class OpenFiles:
    """File handles by path, opened once, shared by threads: reads and writes name their position."""

    def __init__(self) -> None:
        self._files: dict[tuple[Path, str], IO[bytes]] = {}
        self._lock = threading.Lock()

    def get(self, path: Path, mode: str = "rb") -> IO[bytes]:
        with self._lock:
            file = self._files.get((path, mode))
            if file is None:
                file = self._files[(path, mode)] = path.open(mode, buffering=0)
                if not reading.PORTABLE:
                    # Threads take turns in reading one file; without this the kernel takes that for leaps.
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            return file

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()


@contextmanager
def open_files() -> Iterator[OpenFiles]:
    files = OpenFiles()
    try:
        yield files
    finally:
        files.close()


# Threads that write to one file take turns anyway; the kernel lets those that wait spin, which a lock does not.
_write_lock = threading.Lock()


def write_from(file: IO[bytes], position: int, buffer: Any) -> None:
    """Write all of `buffer` at `position`."""
    view = memoryview(buffer).cast("B")
    done = 0
    with reading.seek_lock if reading.PORTABLE else _write_lock:
        while done < len(view):
            piece = view[done : done + _WRITE]
            if reading.PORTABLE:
                file.seek(position + done)
                done += file.write(piece)
            else:
                done += os.pwrite(file.fileno(), piece, position + done)


def reserve(file: IO[bytes], nbytes: int) -> None:
    """Give a new file its size, and at once its place on the disk where the file system knows how.

    Writes then find their blocks allocated, which halves what they cost the kernel, and a full disk is found out now.
    """
    if not reading.PORTABLE:
        import ctypes  # os.posix_fallocate writes zeros where the file system cannot reserve

        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
        fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        if nbytes and fallocate(file.fileno(), 0, 0, nbytes) and ctypes.get_errno() == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
    file.truncate(nbytes)


def copy_bytes(source: IO[bytes], start: int, target: IO[bytes], position: int, count: int) -> int:
    """Copy `count` bytes from `start` in `source` to `position` in `target`; returns how many of them were cloned.

    Cloned bytes lie on the disk once, for both files (btrfs, xfs), and cost nothing.
    """
    cloned = 0
    if not reading.PORTABLE:
        # Whole blocks can be cloned, and only to a place that lies in its block as the source does.
        first, stop = -start % _BLOCK, (start + count) // _BLOCK * _BLOCK - start
        if start % _BLOCK == position % _BLOCK and stop > first:
            cloned = _clone(source, start + first, target, position + first, stop - first)
    if not cloned:
        _copy(source, start, target, position, count)
        return 0
    _copy(source, start, target, position, first)
    _copy(source, start + stop, target, position + stop, count - stop)
    return cloned


_BLOCK = 4096  # a file system with larger ones refuses, and the bytes are copied
_FICLONERANGE = 0x4020940D


def _clone(source: IO[bytes], start: int, target: IO[bytes], position: int, count: int) -> int:
    """ioctl_ficlonerange(2); `count`, or 0 where the file system does not do it."""
    import fcntl

    try:
        fcntl.ioctl(target.fileno(), _FICLONERANGE, struct.pack("qQQQ", source.fileno(), start, count, position))
    except OSError as error:
        if error.errno not in _REFUSED | {errno.ENOTTY, errno.EISDIR}:
            raise
        return 0
    return count


def _copy(source: IO[bytes], start: int, target: IO[bytes], position: int, count: int) -> None:
    done = 0
    while done < count and not reading.PORTABLE:
        try:
            moved = os.copy_file_range(source.fileno(), target.fileno(), count - done, start + done, position + done)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            break
        if not moved:
            break
        done += moved
    if done == count:
        return
    buffer = bytearray(min(CHUNK // 8, count - done))
    while done < count:
        piece = memoryview(buffer)[: min(len(buffer), count - done)]
        reading.read_into(source, start + done, piece)
        write_from(target, position + done, piece)
        done += len(piece)
