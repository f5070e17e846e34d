"""What all verbs print with: lines, tables, JSON, numbers. Data go to stdout, words about progress to stderr."""

from __future__ import annotations

import json as json_library
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingraft.errors import UnusableInput
from ingraft.files import to_json

if TYPE_CHECKING:
    from ingraft.progress import Progress

_LABEL = 10
_UNBOUNDED = 1000


def out() -> Console:
    """For lines, which are not wrapped: logs are searched by line."""
    return Console(highlight=False, soft_wrap=True)


def line(label: str, text: str, *, style: str = "") -> None:
    """One line of the report: a label in its column, then the facts."""
    out().print(Text.assemble((f"{label:<{_LABEL}}", "bold cyan"), (text, style)))


def table(*titles: str) -> Table:
    """An empty table with plain columns of these titles; others are added to it."""
    return Table(*titles, box=None, pad_edge=False, header_style="bold")


def print_table(table: Table, *, rows_are_lines: bool = False) -> None:
    """Fit it to the terminal; `rows_are_lines` where none sets a width, because pipes are searched by line."""
    width = _UNBOUNDED if rows_are_lines and not sys.stdout.isatty() else None
    Console(highlight=False, width=width).print(table)


def json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    """One JSON value on stdout, in ASCII where stdout takes no more; null for numbers that JSON does not know."""
    known = json_library.loads(json_library.dumps(value, default=str), parse_constant=lambda word: None)
    plain = json_library.dumps(known, indent=2)
    text = to_json(known)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = plain + "\n"
    sys.stdout.write(text)


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    try:
        path.write_text(to_json(value), encoding="utf-8")
    except OSError as error:
        raise UnusableInput(
            f"{path} cannot be written: {error.strerror}.", hint="Name a file in another directory."
        ) from None


def count(number: float) -> str:
    """`22.7 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


@contextmanager
def progress(human: bool) -> Iterator[Progress | None]:
    """A bar on stderr for each stage; None, so silence, when stderr is no terminal."""
    if not human or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from ingraft.cli.progress import Bars

    with Bars() as bars:
        yield bars
