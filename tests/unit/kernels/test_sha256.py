"""sha256 of one message and of two at once: hashlib's."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.compiler import compiled
from ingraft.kernels.sha256 import TWO_AT_ONCE, Sha256, update_both


@pytest.fixture(autouse=True, scope="module")
def _supported() -> None:
    assert compiled("_sha256").SUPPORTED == TWO_AT_ONCE
    if not TWO_AT_ONCE:
        pytest.skip("this processor has no instructions for SHA-256")


LENGTHS = st.integers(0, 300)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(0, 5), LENGTHS, LENGTHS)
def test_as_hashlib(blocks: int, one_more: int, other_more: int) -> None:
    """Whole blocks of two together, then what each has left."""
    chance = random.Random(blocks + 7 * one_more + 11 * other_more)
    together, texts = 64 * blocks, [chance.randbytes(64 * blocks + more) for more in (one_more, other_more)]
    one, other = Sha256(), Sha256()

    update_both(one, memoryview(texts[0])[:together], other, memoryview(texts[1])[:together])
    one.update(memoryview(texts[0])[together:])
    other.update(memoryview(texts[1])[together:])
    other.update(memoryview(b""))

    assert [one.hexdigest(), other.hexdigest()] == [hashlib.sha256(text).hexdigest() for text in texts]
    assert one.hexdigest() == one.hexdigest()


def test_piece_by_piece() -> None:
    text = random.Random(0).randbytes(64 * 1000 + 13)
    digest = Sha256()
    for start in range(0, len(text), 640):
        digest.update(memoryview(text)[start : start + 640])

    assert digest.hexdigest() == hashlib.sha256(text).hexdigest()


def test_only_the_last_piece_may_end_within_a_block() -> None:
    digest, other = Sha256(), Sha256()
    digest.update(memoryview(bytes(65)))

    with pytest.raises(ValueError, match="only the last piece"):
        digest.update(memoryview(bytes(64)))
    with pytest.raises(ValueError, match="only the last piece"):
        update_both(digest, memoryview(bytes(64)), other, memoryview(bytes(64)))
    for piece, another in ((bytes(64), bytes(128)), (bytes(63), bytes(63))):
        with pytest.raises(ValueError, match="sizes do not fit"):
            update_both(Sha256(), memoryview(piece), other, memoryview(another))
