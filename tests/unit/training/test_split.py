"""What is held out shares no text with what is trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingraft.training import split as module
from ingraft.training.data import TrainingData
from ingraft.training.split import groups_of_rows, split


def pairs(rows: list[tuple[str, str]]) -> TrainingData:
    columns = {"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]}
    return TrainingData(Path("rows.csv"), "pairs", {}, (), (), columns)


texts = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
many_rows = st.lists(st.tuples(texts, texts), min_size=2, max_size=60)


@given(many_rows, st.floats(0, 0.9), st.integers(0, 5))
def test_no_text_is_on_both_sides(rows: list[tuple[str, str]], share: float, seed: int) -> None:
    parts = split(pairs(rows), share=share, seed=seed)
    assert sorted((*parts.train, *parts.held_out)) == list(range(len(rows)))
    assert len(parts.train) >= 2
    assert len(parts.held_out) <= max(1, share * len(rows) + 0.5)
    if parts.apart:
        trained = {text for row in parts.train for text in rows[row]}
        assert not trained & {text for row in parts.held_out for text in rows[row]}


@given(many_rows)
def test_groups_are_the_connected_rows(rows: list[tuple[str, str]]) -> None:
    groups = groups_of_rows([a for a, _ in rows], [b for _, b in rows])
    assert sorted(row for group in groups for row in group) == list(range(len(rows)))
    seen = [{text for row in group for text in rows[row]} for group in groups]
    assert sum(map(len, seen)) == len(set().union(*seen))  # no text in two groups
    for group in groups:  # and no group falls into two
        reached = {group[0]}
        while more := {
            row for row in group if row not in reached and any(set(rows[row]) & set(rows[other]) for other in reached)
        }:
            reached |= more
        assert reached == set(group)


def test_case_and_space_do_not_tell_texts_apart() -> None:
    assert groups_of_rows(["Fever", "fever ", "cough"], ["a", "b", "c"]) == [[0, 1], [2]]


def test_groups_of_the_data_stay_together() -> None:
    assert groups_of_rows(list("abcd"), list("efgh"), groups=list("xyxz")) == [[0, 2], [1], [3]]
    rows = dataclasses.replace(
        pairs([(f"a{n}", f"b{n}") for n in range(60)]), groups=tuple(str(n % 12) for n in range(60))
    )
    parts = split(rows, share=0.2, seed=0)
    assert parts.apart
    assert parts.held_out
    assert not {n % 12 for n in parts.train} & {n % 12 for n in parts.held_out}


def test_an_even_split() -> None:
    data = pairs([(f"a{n}", f"b{n // 2}") for n in range(100)])
    parts = split(data, share=0.1, seed=3)
    assert len(parts.held_out) == 10
    assert parts.apart
    assert split(data, share=0.1, seed=3) == parts
    assert split(data, share=0.1, seed=4) != parts


def test_entangled_rows_are_held_out_all_the_same() -> None:
    parts = split(pairs([(f"a{n}", "everything") for n in range(40)]), share=0.25, seed=0)
    assert len(parts.held_out) == 10
    assert not parts.apart


def test_nothing_is_held_out_on_request() -> None:
    parts = split(pairs([("a", "b"), ("c", "d"), ("e", "f")]), share=0, seed=0)
    assert parts.held_out == ()
    assert parts.apart


def test_no_more_than_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_OUT", 7)
    assert len(split(pairs([(f"a{n}", f"b{n}") for n in range(100)]), share=0.5, seed=0).held_out) == 7
