"""Parquet files of texts, a row group at a time."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingraft.arrow_values import NO_COUNTERPART
from ingraft.embedding.text_file import TextFile
from ingraft.errors import UnusableInput, first_line


def open_parquet(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UnusableInput(
            "Embedding a file needs the package pyarrow, which is not installed.",
            hint="Run: pip install 'ingraft[embed]'",
        ) from None
    with sound(path):
        return pyarrow.parquet.ParquetFile(path)


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Of a damaged file pyarrow raises errors of its own, or an OSError that says nothing to the system."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, *NO_COUNTERPART) as error:
        reason = first_line(error)
        raise UnusableInput(f"{path} is not a Parquet file that can be read: {reason}") from None


def is_text(kind: Any) -> bool:
    import pyarrow.types

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


@functools.lru_cache(maxsize=1)
def row_group(file: TextFile, group: int, names: tuple[str, ...]) -> tuple[Any, ...]:
    """Columns of a row group; the last one is kept, because its windows follow one another."""
    with sound(file.path):
        table = open_parquet(file.path).read_row_group(group, columns=list(names))
    return tuple(table.column(name) for name in names)
