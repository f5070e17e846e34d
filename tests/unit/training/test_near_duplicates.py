"""Near-duplicates: the fast search finds what comparing everything with everything finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingraft.training.near_duplicates import _shingles, near_duplicates

texts = st.lists(st.text("abc ", min_size=1, max_size=14), min_size=1, max_size=8)


@given(texts, texts, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_it_is_exact(train: list[str], test: list[str], threshold: float) -> None:
    def jaccard(first: str, second: str) -> float:
        a, b = _shingles(first), _shingles(second)
        return len(a & b) / len(a | b)

    best = {n: max(jaccard(text, other) for other in train) for n, text in enumerate(test)}
    found = near_duplicates(train, test, threshold=threshold)
    assert {near.test: near.similarity for near in found} == {n: s for n, s in best.items() if s >= threshold}
    assert all(jaccard(train[near.train], test[near.test]) == near.similarity for near in found)


def test_what_counts_as_the_same() -> None:
    train = ["Where is the nearest railway station?", "heart failure", "The ferry leaves at noon."]
    test = ["where is the nearest railway station", "liver failure", "The ferry leaves at noon!!", "The ferry leaves."]
    found = [(near.train, near.test, near.similarity) for near in near_duplicates(train, test)]
    assert found == [(0, 0, 1.0), (2, 2, 1.0)]
