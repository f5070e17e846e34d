"""Stored vectors are those of Sentence Transformers' own quantisation."""

from __future__ import annotations

import json
from typing import Any

import numpy
import pytest

from ingraft.embedding.vectors import as_table, in_precision, int8_ranges, ranges_text
from ingraft.errors import UnusableInput


@pytest.fixture
def vectors() -> Any:
    return numpy.random.default_rng(0).standard_normal((50, 20)).astype(numpy.float32)


def test_precisions(vectors: Any) -> None:
    from sentence_transformers import quantize_embeddings

    ranges = int8_ranges(vectors)
    assert in_precision(vectors, "float32", None) is vectors
    assert in_precision(vectors, "float16", None).dtype == numpy.float16
    for precision in ("int8", "binary"):
        found = in_precision(vectors, precision, ranges)  # type: ignore[arg-type]
        assert found.dtype == numpy.int8
        assert (found == quantize_embeddings(vectors, precision=precision)).all()  # type: ignore[arg-type]
    assert in_precision(vectors, "binary", None).shape == (50, 3)


def test_ranges_of_one_window_hold_for_the_next(vectors: Any) -> None:
    ranges = numpy.array(json.loads(ranges_text(int8_ranges(vectors[:25]))), dtype=numpy.float32)

    together = in_precision(vectors, "int8", ranges)
    assert (in_precision(vectors[25:], "int8", ranges) == together[25:]).all()
    with pytest.raises(UnusableInput, match="fewer than two"):
        int8_ranges(vectors[:1])


def test_ids_keep_their_type(vectors: Any) -> None:
    def kind(ids: Any) -> str:
        table = as_table(ids, vectors[: len(ids)], name="code", metadata={})
        assert table.column("embedding").type.list_size == 20
        return str(table.column("code").type)

    assert kind(range(3, 6)) == kind([7, 8]) == "int64"
    assert kind(["a", "b"]) == "string"
    for mixed in (["a", 1], [1, "a"], [1.5, 2]):
        with pytest.raises(UnusableInput, match="not all whole numbers, nor all text"):
            kind(mixed)
