"""A local table file as rows with line numbers. Knows nothing of what the columns mean."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ingraft.arrow_values import NO_COUNTERPART
from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.files import parse_json

# A table of texts has a handful of columns; lines with a key of their own each fill the memory with what they lack.
_MOST_COLUMNS = 1_000
# Rows that differ take more than that of a Parquet file; a few bytes can stand for billions of the same one.
_MOST_ROWS_PER_BYTE = 64


@dataclass(frozen=True)
class Row:
    """Values in the order of the table's columns, None where one is absent; `line` counts from 1."""

    line: int
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    """`broken` says of each row that could not even be read where and why. `unit` is what `line` counts."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    broken: tuple[str, ...] = ()
    unit: str = "line"


def read_table(path: Path) -> Table:
    """The table in `path`, by its suffix; UnusableInput when there is none, or none that can be read."""
    if path.is_dir():
        raise UnusableInput(f"{path} is a directory; expected a file{_data_files_in(path)}.")
    if not path.exists():
        raise UnusableInput(f"{path} does not exist{nearest(path.name, _names_in(path.absolute().parent))}.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        found = f"the format {path.suffix}" if path.suffix else "a file without a suffix"
        raise UnusableInput(f"{path} has {found}; CSV, TSV, JSONL, JSON and Parquet files can be read.")
    try:
        table = reader(path)
    except UnicodeDecodeError as error:
        raise UnusableInput(
            f"{path} is not UTF-8 text: byte {error.start:,} is {error.object[error.start]:#04x}.",
            hint="Save it as UTF-8.",
        ) from None
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror or error}.") from None
    if not table.rows and not table.broken:
        raise UnusableInput(f"{path} holds no rows.")
    return table


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        delimiter = max(",;\t|", key=first.count)  # the first of them that is most frequent
        return _delimited(path, file, delimiter)


def _read_tsv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _delimited(path, file, "\t")


def _delimited(path: Path, file: TextIO, delimiter: str) -> Table:
    file.seek(0)
    csv.field_size_limit(2**31 - 1)  # the default refuses documents of more than 128 kB
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows, broken, line = [], [], 1
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            broken.append(f"line {line}: {error}")
            break  # a quote that nothing closes has swallowed the rest
        if values is None:
            break
        if not columns:
            columns = tuple(name.strip() for name in values)
            _check_width(path, len(columns))
        elif len(values) == len(columns):
            rows.append(Row(line, tuple(values)))
        elif values:
            broken.append(f"line {line}: {len(values)} fields, the header has {len(columns)}")
        line = reader.line_num + 1
    return Table(path, columns, tuple(rows), tuple(broken))


def _read_jsonl(path: Path) -> Table:
    with path.open(encoding="utf-8-sig") as file:
        return _objects(path, _json_lines(file), unit="line")


def _json_lines(file: TextIO) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except (ValueError, RecursionError) as error:
                yield number, error


def _read_json(path: Path) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _read_jsonl(path)  # many .json files hold one object per line
        raise UnusableInput(f"{path} is not JSON: {error.msg} in line {error.lineno}.") from None
    except RecursionError:
        raise UnusableInput(f"{path} is nested too deeply to be read.") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise UnusableInput(f"{path} holds a number of too many digits.") from None
    if not isinstance(value, list):
        found = f"an object with the keys {_some(value)}" if isinstance(value, dict) else f"a {type(value).__name__}"
        raise UnusableInput(f"{path} holds {found}; expected a list of objects, one for each row.")
    return _objects(path, enumerate(value, start=1), unit="row")


def _objects(path: Path, objects: Iterable[tuple[int, Any]], *, unit: str) -> Table:
    read, broken = [], []
    columns: dict[str, None] = {}
    for number, value in objects:
        if isinstance(value, dict):
            columns |= dict.fromkeys(value)
            _check_width(path, len(columns))
            read.append((number, value))
        elif isinstance(value, json.JSONDecodeError):
            broken.append(f"{unit} {number}: not JSON, {value.msg} at column {value.colno}")
        elif isinstance(value, RecursionError):
            broken.append(f"{unit} {number}: nested too deeply")
        elif isinstance(value, ValueError):
            broken.append(f"{unit} {number}: a number of too many digits")
        else:
            broken.append(f"{unit} {number}: a {type(value).__name__}, expected an object")
    rows = tuple(Row(number, tuple(value.get(column) for column in columns)) for number, value in read)
    return Table(path, tuple(columns), rows, tuple(broken), unit)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise UnusableInput(
            f"{path} needs the package pyarrow, which is not installed.",
            hint="Run: pip install 'ingraft[train]'",
        ) from None
    try:
        file = parquet.ParquetFile(path)
        _check_width(path, len(file.schema_arrow.names))
        if file.metadata.num_rows > _MOST_ROWS_PER_BYTE * path.stat().st_size:
            raise UnusableInput(f"{path} stands for {file.metadata.num_rows:,} rows, which cannot all be different.")
        table = file.read()
    except arrow.ArrowException as error:
        raise UnusableInput(f"{path} is not a Parquet file that can be read: {first_line(error)}") from None
    columns = [_values(path, name, table.column(at)) for at, name in enumerate(table.column_names)]
    rows = tuple(Row(number, values) for number, values in enumerate(zip(*columns, strict=True), start=1))
    return Table(path, tuple(table.column_names), rows, unit="row")


def _values(path: Path, name: str, column: Any) -> list[Any]:
    """A column in Python's types, which have no room for every date, span of time and time zone that Parquet has."""
    try:
        found: list[Any] = column.to_pylist()
    except NO_COUNTERPART as error:
        raise UnusableInput(
            f"{path} has values in the column {name!r} that cannot be read, of type {column.type}: {first_line(error)}",
            hint="Write the file without that column.",
        ) from None
    return found


def _check_width(path: Path, columns: int) -> None:
    if columns > _MOST_COLUMNS:
        raise UnusableInput(f"{path} has more than {_MOST_COLUMNS:,} columns; expected a few, with texts.")


_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}


def _some(names: Iterable[str], limit: int = 6) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (" …" if len(listed) > limit else "")


def _names_in(folder: Path) -> list[str]:
    try:
        return [child.name for child in folder.iterdir()]
    except OSError:
        return []


def _data_files_in(folder: Path) -> str:
    files = sorted(name for name in _names_in(folder) if Path(name).suffix.lower() in _READERS)
    return f" (it holds {_some(files)})" if files else ""
