"""How torch is imported: in less time, and beside other threads. A small merge takes no longer than that import."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

# In the order in which torch itself loads them; the first brings symbols that the others look for everywhere.
_LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_python.so", ctypes.RTLD_LOCAL))


def map_torch() -> None:
    """Begin to load torch's libraries on a thread of their own: a fifth of its import, for which no Python has to wait.

    Nothing where torch is imported already, and on systems other than Linux. What goes wrong here, the import tells.
    """
    if sys.platform.startswith("linux") and "torch" not in sys.modules:
        threading.Thread(target=_load_libraries, name="torch's libraries", daemon=True).start()


def _load_libraries() -> None:
    spec = find_spec("torch")
    for folder in spec.submodule_search_locations or () if spec else ():
        try:
            for name, mode in _LIBRARIES:
                ctypes.CDLL(str(Path(folder) / "lib" / name), mode=mode)
        except OSError:
            return


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
