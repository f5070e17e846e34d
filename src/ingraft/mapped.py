"""Bytes of files where they lie in the system's page cache: what is only looked at need not be copied first."""

from __future__ import annotations

import mmap
import os
from typing import IO

# A mapped file cannot be replaced on Windows.
POSSIBLE = os.name == "posix"


def view(file: IO[bytes], position: int, count: int) -> memoryview:
    """`count` bytes of `file` from `position`, read-only; mapped for as long as the view is kept.

    Read into memory where the file system does not map files. Raises EOFError where the file ends before: what is
    mapped beyond the end would end the process. (So would a file that is cut off while the view is being read, as it
    would for any reader that maps.)
    """
    if not count:
        return memoryview(b"")
    if os.fstat(file.fileno()).st_size < position + count:
        raise EOFError(f"{file.name} ends before byte {position + count:,}")
    lead = position % mmap.ALLOCATIONGRANULARITY
    try:
        whole = mmap.mmap(file.fileno(), lead + count, access=mmap.ACCESS_READ, offset=position - lead)
    except OSError:
        return memoryview(_read(file, position, count))
    return memoryview(whole)[lead:]


def _read(file: IO[bytes], position: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(file.fileno(), count, position)
        if not part:
            raise EOFError(f"{file.name} ends at byte {position:,}, {count:,} bytes too early")
        parts.append(part)
        position, count = position + len(part), count - len(part)
    return b"".join(parts)
