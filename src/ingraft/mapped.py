"""Bytes of files where they lie in the system's page cache: what is only looked at need not be copied first."""

from __future__ import annotations

import mmap
import os
from typing import IO

# A mapped file cannot be replaced on Windows.
POSSIBLE = os.name == "posix"


def view(file: IO[bytes], position: int, count: int) -> memoryview:
    """`count` bytes of `file` from `position`, read-only; mapped for as long as the view is kept.

    Raises EOFError where the file ends before: what is mapped beyond the end would end the process. (So would a file
    that is cut off while the view is being read, as it would for any reader that maps.)
    """
    if not count:
        return memoryview(b"")
    if os.fstat(file.fileno()).st_size < position + count:
        raise EOFError(f"{file.name} ends before byte {position + count:,}")
    lead = position % mmap.ALLOCATIONGRANULARITY
    whole = mmap.mmap(file.fileno(), lead + count, access=mmap.ACCESS_READ, offset=position - lead)
    return memoryview(whole)[lead:]
