"""Texts that are nearly the same on both sides of a split: they make a figure look better than it is."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

THRESHOLD = 0.8
_LENGTH = 4


@dataclass(frozen=True)
class NearDuplicate:
    """Indices of two texts, and how similar they are: Jaccard, of their sets of four characters in a row."""

    train: int
    test: int
    similarity: float


def near_duplicates(
    train: Sequence[str], test: Sequence[str], *, threshold: float = THRESHOLD
) -> tuple[NearDuplicate, ...]:
    """For each text of `test` the most similar of `train`, where that reaches `threshold`.

    Exact: two sets with a Jaccard similarity of at least t share one of the |x| − ⌈t·|x|⌉ + 1 elements of x that come
    first in a common order (prefix filtering; Chaudhuri et al., ICDE 2006). With rare elements first, few candidates
    are left to be compared.
    """
    test_sets = [_shingles(text) for text in test]
    frequency = Counter(shingle for shingles in test_sets for shingle in shingles)

    def prefix(shingles: frozenset[str]) -> list[str]:
        ordered = sorted(shingles, key=lambda shingle: (frequency[shingle], shingle))
        return ordered[: len(shingles) - math.ceil(threshold * len(shingles)) + 1]

    by_shingle: dict[str, list[int]] = {}
    for number, shingles in enumerate(test_sets):
        for shingle in prefix(shingles):
            by_shingle.setdefault(shingle, []).append(number)
    best: dict[int, NearDuplicate] = {}
    for number, text in enumerate(train):
        shingles = _shingles(text)
        candidates = {other for shingle in prefix(shingles) for other in by_shingle.get(shingle, ())}
        for other in candidates:
            common = len(shingles & test_sets[other])
            similarity = common / (len(shingles) + len(test_sets[other]) - common)
            if similarity >= threshold and (other not in best or similarity > best[other].similarity):
                best[other] = NearDuplicate(number, other, similarity)
    return tuple(best[number] for number in sorted(best))


def _shingles(text: str) -> frozenset[str]:
    """All runs of four letters and digits; a shorter text is one of its own. Case and punctuation do not count."""
    plain = " ".join(re.findall(r"\w+", text.casefold()))
    return frozenset(plain[n : n + _LENGTH] for n in range(max(1, len(plain) - _LENGTH + 1)))
