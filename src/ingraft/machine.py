"""What the machine has: room on a disk, memory, and which processes run."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def free_bytes(folder: Path) -> int:
    """Bytes that may be written to the file system of `folder` (or of its nearest existing parent)."""
    import shutil

    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def available_memory() -> int | None:
    """Bytes of memory that a process may still take, respecting a cgroup's limit; None where unknown."""
    limits = []
    try:
        with open("/proc/meminfo") as meminfo:
            limits += [int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable")]
    except OSError:
        try:
            limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, ValueError, OSError):
            return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            limits.append(int(limit) - used + _page_cache(Path("/sys/fs/cgroup/memory.stat")))
    except (OSError, ValueError):
        pass
    return min(limits) if limits else None


def _page_cache(statistics: Path) -> int:
    """Bytes of cached files, which count as used by the cgroup and are given back on demand."""
    try:
        lines = [line.split() for line in statistics.read_text().splitlines()]
    except OSError:
        return 0
    return sum(int(words[1]) for words in lines if words[0] in ("active_file", "inactive_file"))


def is_running(process: int) -> bool:
    """Is there a process with this number? True where that cannot be told."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
