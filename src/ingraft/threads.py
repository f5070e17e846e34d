"""Arithmetic that stays on the thread that asks for it: we have threads of our own, one for each core."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_blocks = 0
_restore: list[Callable[[], object]] = []


@contextmanager
def one_thread_each() -> Iterator[None]:
    """numpy and, where it is loaded, torch start no threads in the block: theirs would wait for each other and ours.

    Blocks may lie in each other and overlap: the last to end gives both their threads back.
    """
    global _blocks
    import numpy  # noqa: F401 — its threads are found once it is there
    from threadpoolctl import threadpool_limits

    with _lock:
        if not _blocks:
            _restore.append(threadpool_limits(1, user_api="blas").restore_original_limits)
        if (torch := sys.modules.get("torch")) and (threads := torch.get_num_threads()) != 1:
            torch.set_num_threads(1)
            _restore.append(lambda: torch.set_num_threads(threads))
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            while not _blocks and _restore:
                _restore.pop()()
