"""Vectors in the precision they are stored in, and as Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from ingraft.errors import UnusableInput

Precision: TypeAlias = Literal["float32", "float16", "int8", "binary"]

RANGES = "ingraft.int8_ranges"


def int8_ranges(vectors: Any) -> Any:
    """Smallest and largest value of each dimension, [2, d]: what int8 is stretched over."""
    import numpy

    if len(vectors) < 2:
        raise UnusableInput("int8 takes its ranges from the texts; there are fewer than two.", hint="Use float16.")
    return numpy.stack([vectors.min(axis=0), vectors.max(axis=0)])


def in_precision(vectors: Any, precision: Precision, ranges: Any) -> Any:
    """float32 [n, d] as it is stored: float16, int8 over `ranges`, or one bit a dimension in int8 [n, ⌈d/8⌉].

    int8 and binary are those of `sentence_transformers.quantize_embeddings`.
    """
    if precision == "float32":
        return vectors
    if precision == "float16":
        return vectors.astype("float16")
    from sentence_transformers import quantize_embeddings

    return quantize_embeddings(vectors, precision=precision, ranges=ranges)


def as_table(ids: Sequence[int | str], vectors: Any, *, name: str, metadata: Mapping[str, str]) -> Any:
    """An Arrow table of ids and vectors, the latter as lists of one size without nulls."""
    import pyarrow as arrow

    flat = arrow.array(vectors.reshape(-1))
    lists = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    numbers = isinstance(ids, range)
    try:
        identifiers = arrow.array(ids, type=arrow.int64() if numbers or isinstance(ids[0], int) else arrow.string())
    except (arrow.ArrowException, TypeError, OverflowError):
        raise UnusableInput(f"The ids in {name} are not all whole numbers, nor all text.") from None
    table = arrow.table({name: identifiers, "embedding": lists})
    return table.replace_schema_metadata(dict(metadata))


def ranges_text(ranges: Any) -> str:
    """Ranges as JSON, for the file's metadata: queries are stretched over the same."""
    return json.dumps([[float(value) for value in row] for row in ranges])
