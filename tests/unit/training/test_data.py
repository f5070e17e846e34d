"""Which column is what, and which rows cannot be used."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.data import TrainingData, read_training_data


def table(tmp_path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], **options: Any) -> TrainingData:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return read_training_data(path, **options)


TEXTS = [("one", "two", "0.5"), ("three", "four", "0.75")]


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        (("anchor", "positive"), ["anchor", "positive"]),
        (("Query", "Document"), ["anchor", "positive"]),
        (("question", "answer"), ["anchor", "positive"]),
        (("sentence_1", "sentence_2"), ["anchor", "positive"]),
        (("Text A", "Text B"), ["anchor", "positive"]),
        (("premise", "hypothesis"), ["anchor", "positive"]),
        (("sentence1", "sentence2", "score"), ["sentence1", "sentence2", "score"]),
        (("query", "passage", "Similarity Score"), ["sentence1", "sentence2", "score"]),
    ],
)
def test_columns_by_name(tmp_path: Path, header: Sequence[str], roles: list[str]) -> None:
    data = table(tmp_path, header, [row[: len(header)] for row in TEXTS])
    assert list(data.roles) == list(header)
    assert list(data.roles.values()) == roles
    assert data.kind == ("scored pairs" if "score" in roles else "pairs")
    assert data.by_position == ()


def test_order_is_that_of_the_loss_not_of_the_file(tmp_path: Path) -> None:
    rows = [("no", "id-1", "yes", "what"), ("never", "id-2", "always", "when")]
    data = table(tmp_path, ("negative", "id", "positive", "anchor"), rows)
    assert data.columns == {"anchor": ["what", "when"], "positive": ["yes", "always"], "negative": ["no", "never"]}
    assert data.ignored == ("id",)


def test_more_negatives(tmp_path: Path) -> None:
    data = table(tmp_path, ("query", "positive", "negative_1", "hard_negative_2"), [("a", "b", "c", "d"), "efgh"])
    assert list(data.columns) == ["anchor", "positive", "negative", "negative_2"]


def test_a_score_beside_negatives_is_not_used(tmp_path: Path) -> None:
    rows = [("a", "b", "c", "0.5"), ("d", "e", "f", "1")]
    data = table(tmp_path, ("anchor", "positive", "negative", "score"), rows)
    assert data.kind == "pairs"
    assert data.ignored == ("score",)


@pytest.mark.parametrize(
    ("header", "rows", "kind", "by_position"),
    [
        (("frage", "antwort"), [("a", "b"), ("c", "d")], "pairs", ("frage", "antwort")),
        (("id", "n", "x", "y"), [("k", "1", "a", "b"), ("l", "2", "c", "d")], "scored pairs", ("x", "y", "n")),
        (("query", "title", "n"), [("a", "b", "1"), ("c", "d", "2")], "scored pairs", ("title", "n")),
        (("query", "document", "n"), [("a", "b", "1"), ("c", "d", "2")], "pairs", ()),
        (("x", "y", "n", "z"), [("a", "b", "1", "e"), ("c", "d", "2", "f")], "pairs", ("x", "y")),
        (("", "a", "b"), [("0", "x", "y"), ("1", "z", "w")], "pairs", ("a", "b")),
    ],
)
def test_columns_by_position(
    tmp_path: Path, header: Sequence[str], rows: Any, kind: str, by_position: tuple[str, ...]
) -> None:
    data = table(tmp_path, header, rows)
    assert (data.kind, data.by_position) == (kind, by_position)


def test_columns_that_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="has the columns 'text', 'n'; expected two with texts") as error:
        table(tmp_path, ("text", "n"), [("a", "1"), ("b", "2")])
    assert "anchor and positive" in error.value.hint


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="more than one column called 'text'"):
        table(tmp_path, ("text", "text"), [("a", "b"), ("c", "d")])


def test_bad_rows_are_listed_by_line(tmp_path: Path) -> None:
    rows = [("a", "b", "1"), (" ", "c", "0"), ("d", "e", "high"), ("f", "g", "nan"), ("h", "i", "0.5")]
    message = (
        "3 of 5 rows that cannot be used: line 3: sentence1 is empty; line 4: score is 'high', expected a number; "
        "line 5: score is 'nan', expected a number."
    )
    with pytest.raises(UnusableInput) as error:
        table(tmp_path, ("sentence1", "sentence2", "score"), rows)
    assert message in error.value.message
    assert "--skip-bad-rows" in error.value.hint

    data = table(tmp_path, ("sentence1", "sentence2", "score"), rows, skip_bad_rows=True)
    assert data.columns["score"] == [1.0, 0.5]
    assert data.notes[0].startswith("3 of 5 rows left out: line 3")


def test_only_the_first_bad_rows_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"20 of 21 rows .*line 6: positive is empty; and 15 more\."):
        table(tmp_path, ("anchor", "positive"), [("a", "")] * 20 + [("b", "c")])


def test_values_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"anchor": "a", "positive": "b"}, {"anchor": 3, "positive": ["c"]}, {"positive": "d"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UnusableInput, match="line 2: anchor is a int, expected text; line 3: anchor is empty"):
        read_training_data(path)


def test_repeated_rows_count_once(tmp_path: Path) -> None:
    data = table(tmp_path, ("anchor", "positive"), [("a", "b"), ("a ", "b"), ("a", "c")])
    assert len(data) == 2
    assert data.notes == ("1 repeated rows left out",)


def test_max_pairs_are_drawn_by_the_seed(tmp_path: Path) -> None:
    rows = [(f"a{n}", f"b{n}") for n in range(50)]
    draws = [table(tmp_path, ("anchor", "positive"), rows, max_pairs=10, seed=seed).columns for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert all(len(draw["anchor"]) == 10 for draw in draws)
    assert {a.replace("a", "b") for a in draws[0]["anchor"]} == set(draws[0]["positive"])


def test_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="has 1 rows that can be used"):
        table(tmp_path, ("anchor", "positive"), [("a", "b"), ("a", "b")])


def test_classes_are_no_scores(tmp_path: Path) -> None:
    rows = [("a", "b", "0"), ("c", "d", "1"), ("e", "f", "2")]
    with pytest.raises(UnusableInput, match="whole numbers, 0 to 2, in label: they look like classes"):
        table(tmp_path, ("premise", "hypothesis", "label"), rows)
    assert table(tmp_path, ("premise", "hypothesis", "score"), rows).columns["score"] == [0.0, 1.0, 2.0]
    assert table(tmp_path, ("text1", "text2", "label"), rows[:2]).columns["score"] == [0.0, 1.0]


def test_a_constant_score_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="the same score, 1, in every row"):
        table(tmp_path, ("sentence1", "sentence2", "score"), [("a", "b", "1"), ("c", "d", "1.0")])
