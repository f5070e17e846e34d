"""The texts of a Parquet, JSONL or CSV file as windows of rows, each of which can be read by itself."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.files import parse_json

_FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_DEFAULT_COLUMN = "text"
_WANTED = "Name a Parquet, JSONL or CSV file with a column of texts."


@dataclass(frozen=True)
class TextFile:
    """A table of texts.

    column     of the texts; `ids` that of the ids, or None for the rows' numbers, from 0
    delimiter  of a CSV file; `columns` are all names, in order
    """

    path: Path
    format: str
    columns: tuple[str, ...]
    column: str
    ids: str | None
    delimiter: str = ","


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
        raise UnusableInput(f"{path} {found}.", hint=_WANTED)
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UnusableInput(
            f"{path} has the format {path.suffix or 'without a name'}; Parquet, JSONL and CSV can be read.",
            hint=_WANTED,
        )
    delimiter = ","
    if kind == "parquet":
        schema = _parquet(path).schema_arrow
        columns = tuple(schema.names)
        texts = [field.name for field in schema if _is_text(field.type)]
    elif kind == "csv":
        columns, delimiter = _csv_header(path)
        texts = list(columns)
    else:
        first = next(iter(_json_rows(path, 0, 1)), None)
        if first is None:
            raise UnusableInput(f"{path} holds no rows.", hint=_WANTED)
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
        first, metadata = 0, _parquet(file.path).metadata
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            for offset in range(0, count, size):
                add(first + offset, min(size, count - offset), group, offset)
            first += count
    else:
        begin = first = rows = 0
        for start in _places(file):
            if rows == 0:
                begin = start
            rows += 1
            if rows == size:
                add(first, rows, begin)
                first, rows = first + rows, 0
        add(first, rows, begin)
    if not found:
        raise UnusableInput(f"{file.path} holds no rows.", hint=_WANTED)
    return found


def read_window(file: TextFile, window: Window) -> Rows:
    """The rows of `window`. UnusableInput names the first that has no text, or no id."""
    names = [file.column] + ([file.ids] if file.ids else [])
    if file.format == "parquet":
        columns = _row_group(file, window.start, tuple(names))
        with _sound(file.path):
            values = [column[window.skip : window.skip + window.rows].to_pylist() for column in columns]
    else:
        rows = list(_rows(file, window.start, window.rows))
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


# Parquet


def _parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UnusableInput(
            "Embedding a file needs the package pyarrow, which is not installed.",
            hint="Run: pip install 'ingraft[embed]'",
        ) from None
    with _sound(path):
        return pyarrow.parquet.ParquetFile(path)


@contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Of a damaged file pyarrow raises errors of its own, or an OSError that says nothing to the system; Python has no
    room for every date and span of time that Parquet has."""
    import pyarrow

    try:
        yield
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        OverflowError,
        KeyError,
        TypeError,
        NotImplementedError,
    ) as error:
        reason = first_line(error)
        raise UnusableInput(f"{path} is not a Parquet file that can be read: {reason}") from None


def _is_text(kind: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


@functools.lru_cache(maxsize=1)
def _row_group(file: TextFile, group: int, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Columns of a row group; the last one is kept, because its windows follow one another."""
    with _sound(file.path):
        table = _parquet(file.path).read_row_group(group, columns=list(names))
    return tuple(table.column(name) for name in names)


# Lines


def _rows(file: TextFile, start: int, count: int) -> Iterator[dict[str, Any]]:
    if file.format == "jsonl":
        return _json_rows(file.path, start, count)
    return _csv_rows(file, start, count)


def _places(file: TextFile) -> Iterator[int]:
    """The first byte of every row."""
    with file.path.open("rb") as stream:
        if file.format == "jsonl":
            end = 0
            for line in stream:
                start, end = end, end + len(line)
                if line.strip():
                    yield start
            return
        lines = _Lines(stream, file.path)
        reader = csv.reader(lines, delimiter=file.delimiter, strict=True)
        _next_csv(reader, file.path)
        start = lines.position
        while (values := _next_csv(reader, file.path)) is not None:
            if values:
                yield start
            start = lines.position


def _json_rows(path: Path, start: int, count: int) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        stream.seek(start)
        for line in islice((line for line in stream if line.strip()), count):
            try:
                value = parse_json(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                shown = line[:40].decode("utf-8", "replace")
                raise UnusableInput(f"{path} holds a line that is not JSON, {shown!r}: {error}.") from None
            if not isinstance(value, dict):
                raise UnusableInput(f"{path} holds a {type(value).__name__} in a line, expected an object.")
            yield value


class _Lines:
    """Text lines of a binary stream that know where they end; without a byte order mark."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self.position = stream.tell()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line:
            raise StopIteration
        encoding = "utf-8-sig" if self.position == 0 else "utf-8"
        self.position += len(line)
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            raise UnusableInput(
                f"{self._path} is not UTF-8 text, near byte {self.position:,}.", hint="Save it as UTF-8."
            ) from None


def _csv_header(path: Path) -> tuple[tuple[str, ...], str]:
    csv.field_size_limit(2**31 - 1)  # the default refuses documents of more than 128 kB
    with path.open("rb") as stream:
        first = next(_Lines(stream, path), "")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
        stream.seek(0)
        header = _next_csv(csv.reader(_Lines(stream, path), delimiter=delimiter, strict=True), path)
    if not header:
        raise UnusableInput(f"{path} holds no rows.", hint=_WANTED)
    return tuple(name.strip() for name in header), delimiter


def _csv_rows(file: TextFile, start: int, count: int) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    with file.path.open("rb") as stream:
        stream.seek(start)
        reader = csv.reader(_Lines(stream, file.path), delimiter=file.delimiter, strict=True)
        found = 0
        while found < count and (values := _next_csv(reader, file.path)) is not None:
            if not values:
                continue
            if len(values) != len(file.columns):
                raise UnusableInput(
                    f"{file.path} has {len(values)} fields in the row that begins {' '.join(values)[:40]!r}, "
                    f"its header {len(file.columns)}."
                )
            found += 1
            yield dict(zip(file.columns, values, strict=True))


def _next_csv(reader: Iterator[list[str]], path: Path) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UnusableInput(f"{path} is not CSV that can be read: {error}.") from None
