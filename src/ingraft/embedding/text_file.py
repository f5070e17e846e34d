"""What the head of a table of texts says: where its texts and ids are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WANTED = "Name a Parquet, JSONL or CSV file with a column of texts."


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
