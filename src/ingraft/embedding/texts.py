"""The texts of a Parquet, JSONL or CSV file as windows of rows, each of which can be read by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingraft.embedding.line_texts import csv_header, json_rows, places, read_rows
from ingraft.embedding.parquet_texts import is_text, open_parquet, row_group, sound
from ingraft.embedding.text_file import WANTED, TextFile
from ingraft.errors import UnusableInput, nearest

_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_DEFAULT_COLUMN = "text"


@dataclass(frozen=True)
class Window:
    """`rows` rows from number `first` on.

    start  where they begin: a byte, or in Parquet a row group, of which `skip` rows come before them
    """

    number: int
    first: int
    rows: int
    start: int
    skip: int = 0


@dataclass(frozen=True)
class Rows:
    """ids and texts of a window, in the file's order."""

    ids: Sequence[int | str]
    texts: Sequence[str]


def open_texts(path: Path, *, column: str | None = None, ids: str | None = None) -> TextFile:
    """Look at the head of `path`. UnusableInput when it is no table of texts, or lacks a column that was asked for."""
    if not path.is_file():
        found = "is a directory; expected a file" if path.is_dir() else f"does not exist{_nearest_file(path)}"
        raise UnusableInput(f"{path} {found}.", hint=WANTED)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UnusableInput(
            f"{path} has the format {path.suffix or 'without a name'}; Parquet, JSONL and CSV can be read.",
            hint=WANTED,
        )
    delimiter = ","
    if kind == "parquet":
        schema = open_parquet(path).schema_arrow
        columns = tuple(schema.names)
        texts = [field.name for field in schema if is_text(field.type)]
    elif kind == "csv":
        columns, delimiter = csv_header(path)
        texts = list(columns)
    else:
        first = next(iter(json_rows(path, 0, 1)), None)
        if first is None:
            raise UnusableInput(f"{path} holds no rows.", hint=WANTED)
        columns = tuple(first)
        texts = [name for name, value in first.items() if isinstance(value, str)]
    chosen = _chosen(path, columns, texts, column)
    if twice := [name for name in (chosen, ids) if columns.count(name) > 1]:
        raise UnusableInput(f"{path} has more than one column called {twice[0]!r}.", hint="Rename one of them.")
    if ids is not None and ids not in columns:
        raise UnusableInput(
            f"{path} has no column {ids}{nearest(ids, columns)}.",
            hint=f"Name one of these with --id-column, or leave it out for the rows' numbers: {', '.join(columns)}",
        )
    return TextFile(path, kind, columns, chosen, ids, delimiter)


def windows(file: TextFile, size: int) -> list[Window]:
    """Windows of `size` rows that cover the file; in Parquet none reaches beyond its row group. Scans the file once."""
    found: list[Window] = []

    def add(first: int, rows: int, start: int, skip: int = 0) -> None:
        if rows:
            found.append(Window(len(found), first, rows, start, skip))

    if file.format == "parquet":
        first, metadata = 0, open_parquet(file.path).metadata
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            for offset in range(0, count, size):
                add(first + offset, min(size, count - offset), group, offset)
            first += count
    else:
        begin = first = rows = 0
        for start in places(file):
            if rows == 0:
                begin = start
            rows += 1
            if rows == size:
                add(first, rows, begin)
                first, rows = first + rows, 0
        add(first, rows, begin)
    if not found:
        raise UnusableInput(f"{file.path} holds no rows.", hint=WANTED)
    return found


def read_window(file: TextFile, window: Window) -> Rows:
    """The rows of `window`. UnusableInput names the first that has no text, or no id."""
    names = [file.column] + ([file.ids] if file.ids else [])
    if file.format == "parquet":
        columns = row_group(file, window.start, tuple(names))
        with sound(file.path):
            values = [column[window.skip : window.skip + window.rows].to_pylist() for column in columns]
    else:
        rows = list(read_rows(file, window.start, window.rows))
        values = [[row.get(name) for row in rows] for name in names]
    ids = values[1] if file.ids else range(window.first, window.first + window.rows)
    for number, text in enumerate(values[0]):
        if not isinstance(text, str):
            found = "no text" if text is None else f"no text but {type(text).__name__}"
            raise UnusableInput(
                f"{file.path} has {found} in {file.column} of row {window.first + number}, from 0.",
                hint="Mend that row, or name another column with --column.",
            )
    if file.ids and (missing := next((n for n, value in enumerate(ids) if value is None), None)) is not None:
        raise UnusableInput(f"{file.path} has no {file.ids} in row {window.first + missing}, counted from 0.")
    return Rows(ids, values[0])


def _chosen(path: Path, columns: Sequence[str], texts: Sequence[str], column: str | None) -> str:
    if column is not None:
        if column not in columns:
            raise UnusableInput(f"{path} has no column {column}{nearest(column, columns)}.", hint=_listed(columns))
        return column
    if _DEFAULT_COLUMN in columns:
        return _DEFAULT_COLUMN
    if len(texts) != 1:
        raise UnusableInput(f"{path} has no column called text; which one to embed?", hint=_listed(columns))
    return texts[0]


def _nearest_file(path: Path) -> str:
    folder = path.absolute().parent
    return nearest(path.name, [other.name for other in folder.iterdir()]) if folder.is_dir() else ""


def _listed(columns: Sequence[str]) -> str:
    return f"Name one of its columns with --column: {', '.join(columns)}"
