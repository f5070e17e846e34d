"""Files as rows: every format gives the same rows, and a defect is named by its line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.tables import read_table

ROWS = [{"query": "a", "title": "b"}, {"query": "c, d", "title": 'the "e"\nof f'}]


def write_csv(path: Path, delimiter: str = ",") -> None:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["query", "title"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def write_parquet(path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


WRITERS = {
    "t.csv": write_csv,
    "semicolons.csv": lambda path: write_csv(path, ";"),
    "t.tsv": lambda path: write_csv(path, "\t"),
    "t.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "t.json": lambda path: path.write_text(json.dumps(ROWS)),
    "lines.json": lambda path: path.write_text("\n".join(json.dumps(row) for row in ROWS)),
    "t.parquet": write_parquet,
    "T.JSONL": lambda path: path.write_text("﻿" + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    table = read_table(tmp_path / name)
    assert table.columns == ("query", "title")
    assert [row.values for row in table.rows] == [tuple(row.values()) for row in ROWS]
    assert table.broken == ()


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,"two\nlines"\n\n3,4,5\n6,7\n')
    table = read_table(path)
    assert [row.line for row in table.rows] == [2, 6]
    assert table.broken == ("line 5: 3 fields, the header has 2",)


def test_an_unclosed_quote_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n1,2\n3,"four\n5,6\n')
    table = read_table(path)
    assert len(table.rows) == 1
    assert table.broken[0].startswith("line 3: ")


def test_long_documents_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n{'x' * 200_000},y\n")
    assert len(read_table(path).rows[0].values[0]) == 200_000


def test_json_lines_that_are_no_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n[1, 2]\n{"a": \n' + "[" * 100_000 + "\n")
    table = read_table(path)
    assert [row.line for row in table.rows] == [1]
    assert table.broken == (
        "line 2: a list, expected an object",
        "line 3: not JSON, Expecting value at column 1",
        "line 4: nested too deeply",
    )


def test_numbers_of_too_many_digits(tmp_path: Path) -> None:
    row = '{"a": %s, "b": 1}'
    (tmp_path / "t.jsonl").write_text("\n".join([row % 9, row % ("9" * 5000)]))
    assert read_table(tmp_path / "t.jsonl").broken == ("line 2: a number of too many digits",)

    (tmp_path / "t.json").write_text("[" + row % ("9" * 5000) + "]")
    with pytest.raises(UnusableInput, match="too many digits"):
        read_table(tmp_path / "t.json")


def test_columns_that_only_later_rows_have(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": "1"}\n{"b": "2", "a": "3"}\n')
    table = read_table(path)
    assert table.columns == ("a", "b")
    assert [row.values for row in table.rows] == [("1", None), ("3", "2")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK", "has the format .xlsx; CSV, TSV, JSONL, JSON and Parquet files can be read"),
        ("table", b"a,b", "has a file without a suffix"),
        ("t.csv", b"a,b\n\xe4,\xf6\n", "is not UTF-8 text: byte 4 is 0xe4"),
        ("t.json", b'{"train": [{"a": 1}]}', "holds an object with the keys train; expected a list of objects"),
        ("t.json", b"3", "holds a int"),
        ("t.json", b"[1,", "is not JSON: Expecting value in line 1"),
        ("t.parquet", b"PAR1 no", "is not a Parquet file that can be read"),
        ("t.csv", b"a,b\n", "holds no rows"),
        ("t.jsonl", b"\n", "holds no rows"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableInput) as error:
        read_table(tmp_path / name)
    assert message in error.value.message
    assert name in error.value.message


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    with pytest.raises(UnusableInput, match=r"pair.jsonl does not exist \(nearest: pairs.jsonl\)"):
        read_table(tmp_path / "pair.jsonl")


def test_a_directory_names_the_files_in_it(tmp_path: Path) -> None:
    for name in ("b.csv", "a.parquet", "readme.md"):
        (tmp_path / name).touch()
    with pytest.raises(UnusableInput, match=r"is a directory; expected a file \(it holds a.parquet, b.csv\)"):
        read_table(tmp_path)


@pytest.mark.parametrize(
    ("kind", "value"),
    [("date32", 2**31 - 1), ("date64", 2**60), ("duration('s')", 2**62), ("timestamp('us', tz='Nowhere/X')", 0)],
)
def test_parquet_values_that_python_lacks(tmp_path: Path, kind: str, value: int) -> None:
    import pyarrow
    import pyarrow.parquet

    path, name = tmp_path / "t.parquet", kind.partition("(")[0]
    arguments = {"duration": ("s",), "timestamp": ("us", "Nowhere/X")}.get(name, ())
    odd = pyarrow.array([value, value], getattr(pyarrow, name)(*arguments))
    pyarrow.parquet.write_table(pyarrow.table({"query": ["a", "b"], "when": odd}), path)

    with pytest.raises(UnusableInput, match=r"t\.parquet has values in the column 'when' that cannot be read, of type"):
        read_table(path)


def test_a_few_bytes_that_stand_for_a_million_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"query": pyarrow.nulls(1_000_000)}), path)

    with pytest.raises(UnusableInput, match="stands for 1,000,000 rows"):
        read_table(path)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json", "t.parquet"])
def test_more_columns_than_a_table_of_texts_has(tmp_path: Path, name: str) -> None:
    import pyarrow
    import pyarrow.parquet

    path, columns = tmp_path / name, [f"c{n}" for n in range(1_001)]
    match path.suffix:
        case ".csv":
            path.write_text(f"{','.join(columns)}\n{','.join(columns)}\n")
        case ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({column: ["x"] for column in columns}), path)
        case ".json":
            path.write_text(json.dumps([{column: "x"} for column in columns]))
        case _:  # a key of its own for each line: together a million values
            path.write_text("\n".join(json.dumps({column: "x"}) for column in columns))

    with pytest.raises(UnusableInput, match=r"has more than 1,000 columns"):
        read_table(path)


def test_values_nested_deeper_than_anything_is(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": ' + "[" * 500 + "]" * 500 + "}\n")

    assert read_table(path).broken == ("line 2: nested too deeply",)
