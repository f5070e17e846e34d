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


def test_lists_with_nothing_in_them_are_no_texts(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"query": "a", "pos": ["b"], "neg": [null]}\n{"query": "c", "pos": ["d"], "neg": ["e"]}\n')

    with pytest.raises(UnusableInput, match="line 1: neg is a NoneType, expected text"):
        read_training_data(file)


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
    two = table(tmp_path, ("text1", "text2", "label"), rows[:2])
    assert (two.kind, two.columns["label"]) == ("labelled pairs", [0, 1])


def test_a_constant_score_teaches_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="the same score, 1, in every row"):
        table(tmp_path, ("sentence1", "sentence2", "score"), [("a", "b", "1"), ("c", "d", "1.0")])


def test_a_text_and_its_class(tmp_path: Path) -> None:
    data = table(tmp_path, ("text", "label", "id"), [("a", "sad", "1"), ("b", "glad", "2"), ("c", "sad", "3")])
    assert data.kind == "labelled texts"
    assert data.columns == {"text": ["a", "b", "c"], "label": [1, 0, 1]}
    assert data.notes == ("2 classes",)
    with pytest.raises(UnusableInput, match="one class in every row"):
        table(tmp_path, ("text", "label"), [("a", "x"), ("b", "x")])
    with pytest.raises(UnusableInput, match="a class of its own in every row"):
        table(tmp_path, ("text", "label"), [("a", "x"), ("b", "y")])


def test_lines_and_groups_stay_with_their_rows(tmp_path: Path) -> None:
    rows = [("a", "b", "g1"), ("", "x", "g1"), ("c", "d", "g2")]
    data = table(tmp_path, ("query", "document", "group"), rows, skip_bad_rows=True)
    assert (data.lines, data.groups, data.ignored) == ((2, 4), ("g1", "g2"), ())
    assert (data.take([1]).lines, data.take([1]).groups) == ((4,), ("g2",))


@pytest.mark.parametrize(
    ("columns", "kind", "taken"),
    [
        ({"anchor": "c", "positive": "a"}, "pairs", {"anchor": ["3", "6"], "positive": ["1", "4"]}),
        ({"query": "c", "document": "a", "negative": "b"}, "pairs",
         {"anchor": ["3", "6"], "positive": ["1", "4"], "negative": ["2", "5"]}),
        ({"sentence1": "a", "sentence2": "b", "score": "c"}, "scored pairs",
         {"sentence1": ["1", "4"], "sentence2": ["2", "5"], "score": [3.0, 6.0]}),
    ],
)  # fmt: skip
def test_columns_by_a_mapping(tmp_path: Path, columns: Any, kind: str, taken: Any) -> None:
    data = table(tmp_path, ("a", "b", "c"), [("1", "2", "3"), ("4", "5", "6")], columns=columns)
    assert (data.kind, data.columns, data.by_position) == (kind, taken, ())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"anchor": "aa", "positive": "b"}, r"no column 'aa' \(nearest: a\), which columns.anchor names"),
        ({"ankor": "a", "positive": "b"}, r"columns.ankor is no role of a column \(nearest: anchor\)"),
        ({"anchor": "a"}, "columns names anchor; expected two texts or a text and its class"),
        ({"anchor": "a", "positive": "b", "negative": "c", "score": "c"}, "negatives and a score"),
        ({"anchor": "a", "positive": "b", "group": "z"}, "no column 'z'"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        table(tmp_path, ("a", "b", "c"), [("1", "2", "3"), ("4", "5", "6")], columns=columns)


def jsonl(tmp_path: Path, rows: Sequence[Any], **options: Any) -> TrainingData:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_training_data(path, **options)


def test_flag_embedding_rows(tmp_path: Path) -> None:
    rows = [
        {"query": "q1", "pos": ["p1", "p2"], "neg": ["n1", "n2", "n3"], "pos_scores": [1.0, 0.5], "prompt": "find"},
        {"query": "q2", "pos": ["p3"], "neg": ["n4", "n5"], "pos_scores": [1.0], "prompt": "find"},
    ]
    data = jsonl(tmp_path, rows)
    assert data.columns == {
        "anchor": ["q1", "q1", "q2"],
        "positive": ["p1", "p2", "p3"],
        "negative": ["n1", "n1", "n4"],
        "negative_2": ["n2", "n2", "n5"],
    }
    assert data.lines == (1, 1, 2)
    assert data.notes == ("2 of up to 3 negatives used",)


def test_rows_without_negatives_among_others(tmp_path: Path) -> None:
    rows: list[Any] = [{"query": f"q{n}", "pos": [f"p{n}"], "neg": [f"n{n}"] if n else []} for n in range(9)]
    data = jsonl(tmp_path, rows)
    assert list(data.columns["negative"][1:]) == [f"n{n}" for n in range(1, 9)]
    assert data.columns["negative"][0] in {f"p{n}" for n in range(1, 9)}  # another row's, never its own
    assert data.notes == ("1 of up to 1 negatives used, 1 rows without negatives get others' positives",)
    assert list(jsonl(tmp_path, [row | {"neg": []} for row in rows]).columns) == ["anchor", "positive"]


def test_ms_swift_rows(tmp_path: Path) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    rows = [
        {"messages": said(f"q{n}"), "positive_messages": [said(f"p{n}")], "negative_messages": [said("x"), said("y")]}
        for n in range(2)
    ]
    assert jsonl(tmp_path, rows).columns == {
        "anchor": ["q0", "q1"], "positive": ["p0", "p1"], "negative": ["x", "x"], "negative_2": ["y", "y"],
    }  # fmt: skip
    older = [{"query": f"q{n}", "response": f"p{n}", "rejected_response": ["x", "y"]} for n in range(2)]
    assert jsonl(tmp_path, older).columns == jsonl(tmp_path, rows).columns
    scored = [{"messages": said(f"q{n}"), "positive_messages": [said(f"p{n}")], "label": n / 2} for n in range(3)]
    assert jsonl(tmp_path, scored).columns["score"] == [0.0, 0.5, 1.0]
