"""JSONL and CSV files of texts, from any byte at which a row begins."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ingraft.embedding.text_file import WANTED, TextFile
from ingraft.errors import UnusableInput
from ingraft.files import parse_json


def read_rows(file: TextFile, start: int, count: int) -> Iterator[dict[str, Any]]:
    if file.format == "jsonl":
        return json_rows(file.path, start, count)
    return _csv_rows(file, start, count)


def places(file: TextFile) -> Iterator[int]:
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


def json_rows(path: Path, start: int, count: int) -> Iterator[dict[str, Any]]:
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


def csv_header(path: Path) -> tuple[tuple[str, ...], str]:
    csv.field_size_limit(2**31 - 1)  # the default refuses documents of more than 128 kB
    with path.open("rb") as stream:
        first = next(_Lines(stream, path), "")
        delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)
        stream.seek(0)
        header = _next_csv(csv.reader(_Lines(stream, path), delimiter=delimiter, strict=True), path)
    if not header:
        raise UnusableInput(f"{path} holds no rows.", hint=WANTED)
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
