"""How what takes long to import is imported: in less time, and beside other threads."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

OWN_PROCESS = False
"""Is this process the command's own? In a notebook or a server, objects of others must not be kept from collection."""


@contextmanager
def importing() -> Iterator[None]:
    """No garbage is collected in the block and, in the command's own process, none looked for later in what it made.

    That lives as long as the process. Looking takes a tenth of the command's start, and after torch's import a third of
    a small merge's CPU time.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if OWN_PROCESS:
            gc.freeze()
        if collecting:
            gc.enable()


@contextmanager
def importing_torch() -> Iterator[None]:
    """The block imports torch, if nobody did; a small merge takes no longer than that import.

    Threads that copy and hash take their turns ten times as soon as usual.
    """
    if "torch" in sys.modules:
        yield
        return
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 10)
    try:
        with importing():
            yield
    finally:
        sys.setswitchinterval(interval)
