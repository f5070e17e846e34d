"""Bytes of files, by position: read into memory, or mapped where they lie in the system's page cache.

Linux calls are an inner detail: `PORTABLE = True` (or another system) takes plain seeks and reads instead.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from typing import IO, Any

PORTABLE = not sys.platform.startswith("linux")
MAPPED = os.name == "posix"  # a mapped file cannot be replaced on Windows

seek_lock = threading.Lock()  # threads share files, and so each file's position


def read_into(file: IO[bytes], position: int, buffer: Any) -> None:
    """Fill `buffer` (writable bytes) from `position`; EOFError when the file ends before."""
    whole = memoryview(buffer)
    if not whole.nbytes:  # an empty array has no bytes to be cast to
        return
    view, done = whole.cast("B"), 0
    while done < len(view):
        if PORTABLE:
            with seek_lock:
                file.seek(position + done)
                count = file.readinto(view[done:])  # type: ignore[attr-defined]
        else:
            count = os.preadv(file.fileno(), [view[done:]], position + done)
        if not count:
            raise EOFError(f"{file.name} ends at byte {position + done:,}, {len(view) - done:,} bytes too early")
        done += count


def look_at(file: IO[bytes], position: int, count: int) -> memoryview:
    """`count` bytes of `file` from `position`, not to be changed; mapped for as long as the view is kept.

    Read into memory where files are not mapped, by the system or by this file system. Raises EOFError where the file
    ends before: what is mapped beyond the end would end the process. (So would a file that is cut off while the view is
    being read, as it would for any reader that maps.)
    """
    if MAPPED and count and os.fstat(file.fileno()).st_size >= position + count:
        lead = position % mmap.ALLOCATIONGRANULARITY
        try:
            whole = mmap.mmap(file.fileno(), lead + count, access=mmap.ACCESS_READ, offset=position - lead)
        except (OSError, ValueError):  # no mapping here; the file was cut off just now
            pass
        else:
            return memoryview(whole)[lead:]
    read = bytearray(count)
    read_into(file, position, read)
    return memoryview(read)
