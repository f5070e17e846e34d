"""Files of texts in three formats, and the vectors of a Parquet file that `ingraft embed` wrote."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet

from helpers.models import TEXTS

_WORDS = " ".join(TEXTS).split()


def some_texts(count: int) -> list[str]:
    """Texts of one to nineteen words, no two neighbours of one length; one is empty."""
    return [
        " ".join(_WORDS[(row * 5 + word) % len(_WORDS)] for word in range((row * 7) % 19 + (row != 0)))
        for row in range(count)
    ]


def write_texts(file: Path, texts: Sequence[str], *, ids: Sequence[Any] | None = None, **settings: Any) -> Path:
    """A table with the column `text` (and `code`, if there are ids), in the format of the file's suffix."""
    rows = [{"text": text, **({"code": ids[row]} if ids else {})} for row, text in enumerate(texts)]
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, **settings)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


def vectors_of(file: Path) -> Any:
    """[n, d]; a fixed-size list without nulls."""
    column = pyarrow.parquet.read_table(file).column("embedding")
    assert pyarrow.types.is_fixed_size_list(column.type)
    assert column.null_count == 0
    return numpy.stack(column.to_numpy())


def ids_of(file: Path, name: str = "id") -> list[Any]:
    found: list[Any] = pyarrow.parquet.read_table(file).column(name).to_pylist()
    return found
