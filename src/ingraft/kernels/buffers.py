"""Memory that each thread uses again: fresh large arrays cost more in page faults than the arithmetic in them."""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


class Buffers(threading.local):
    """Reused memory of each thread: pages that were touched once stay mapped."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}

    def get(self, name: str, count: int, dtype: Any) -> Array:
        """`count` elements of `dtype`, with whatever was in them before; valid until `name` is asked for again."""
        nbytes = count * np.dtype(dtype).itemsize
        kept = self._kept.get(name)
        if kept is None or kept.nbytes < nbytes:
            kept = self._kept[name] = np.empty(nbytes, np.uint8)
        return kept[:nbytes].view(dtype)
