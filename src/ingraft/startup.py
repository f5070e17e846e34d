"""How torch is imported: in less time, and beside other threads. A small merge takes no longer than that import."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing_torch() -> Iterator[None]:
    """The block imports torch, if nobody did.

    No garbage is collected in it, and none looked for later among what it made: that lives as long as the process, and
    looking takes a third of a small merge's CPU time. Threads that copy and hash take their turns ten times as soon as
    usual.
    """
    if "torch" in sys.modules:
        yield
        return
    collecting, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(interval / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.freeze()
        if collecting:
            gc.enable()
