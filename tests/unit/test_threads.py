"""Arithmetic on one thread each, and the threads given back in the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from ingraft.threads import one_thread_each


def counts() -> tuple[int, set[int]]:
    """Threads of torch and of the BLAS libraries that are loaded, numpy's among them."""
    np.ones((2, 2)) @ np.ones((2, 2))
    return torch.get_num_threads(), {
        int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"
    }


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with threadpool_limits(3, user_api="blas"):
        yield
    torch.set_num_threads(before)


def test_one_thread_in_the_block() -> None:
    assert counts() == (3, {3})
    with one_thread_each():
        assert counts() == (1, {1})
    assert counts() == (3, {3})


def test_the_last_of_overlapping_blocks_gives_the_threads_back() -> None:
    first, second = one_thread_each(), one_thread_each()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert counts() == (1, {1})
    second.__exit__(None, None, None)
    assert counts() == (3, {3})


def test_failing_block_gives_the_threads_back() -> None:
    def fail() -> None:
        with one_thread_each():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert counts() == (3, {3})
