"""What counts as the same answer."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from ingraft.exporters.parity import Run, difference, parity_check, parity_texts
from ingraft.exporters.tasks import drop_check
from ingraft.verification.encoding import Outputs
from ingraft.verification.texts import TEXTS

TWO = ("first", "second")


def run(rows: Any, batch: int = 8) -> Run:
    return Run(batch, TWO, Outputs(numpy.array(rows, dtype=numpy.float32), numpy.arange(len(rows))))


def test_worst_row_is_named_with_its_batch() -> None:
    model = [run([[3, 4], [0, 5]], batch=1), run([[3, 4], [0, 5]])]
    export = [run([[3, 4], [0, 5]], batch=1), run([[3, 4], [0, 5.5]])]

    found = difference(model, export)

    assert found.worst == pytest.approx(0.1)
    assert (found.text, found.batch, found.max_abs) == ("second", 8, 0.5)
    assert not parity_check(found, 0.09, "graph").passed
    assert parity_check(found, 0.11, "graph").passed


def test_one_wrong_answer_is_not_lost_among_right_ones() -> None:
    rows = numpy.eye(1000, 16, dtype=numpy.float32) + 1
    wrong = rows.copy()
    wrong[500] = -wrong[500]

    texts = tuple(map(str, range(len(rows))))
    model, export = (Run(8, texts, Outputs(part, numpy.arange(len(rows)))) for part in (rows, wrong))

    found = difference([model], [export])

    assert found.worst > 1
    assert found.text == "500"
    assert found.cosine == pytest.approx(-1)


def test_not_a_number_and_another_shape_are_infinitely_far() -> None:
    assert difference([run([[1, 1], [1, 1]])], [run([[1, 1], [1, numpy.nan]])]).worst == numpy.inf
    assert difference([run([[1, 1], [1, 1]])], [run([[1, 1, 1], [1, 1, 1]])]).worst == numpy.inf


def test_scores_near_zero_are_compared_with_typical_ones() -> None:
    found = difference([run([[1e-9], [2.0]])], [run([[2e-9], [2.0]])])

    assert found.worst < 1e-8
    assert found.cosine == 1.0


class _Live(list[Any]):
    """A model of which only the longest input is asked."""

    def __init__(self, limit: int) -> None:
        class Transformer:
            max_seq_length = limit

        super().__init__([Transformer()])


def test_texts_reach_beyond_what_the_model_takes() -> None:
    texts = parity_texts(_Live(256))

    assert texts[: len(TEXTS)] == TEXTS
    assert len(texts[-1].split()) > 256
    assert len(parity_texts(_Live(32768))[-1].split()) < 32768
    assert parity_texts(_Live(256), ["mine"])[0] == "mine"


def test_gate_is_the_first_metric(tmp_path: Any) -> None:
    before = {"nDCG@10": 0.75, "accuracy@1": 0.5}

    gain = drop_check(before, {"nDCG@10": 0.76, "accuracy@1": 0.1}, max_drop=0.0, data=tmp_path / "pairs.csv")
    loss = drop_check(before, {"nDCG@10": 0.73, "accuracy@1": 0.5}, max_drop=0.01, data=tmp_path / "pairs.csv")

    assert gain.passed
    assert not loss.passed
    assert loss.where == "0.7500 in float32, 0.7300 in int8"
