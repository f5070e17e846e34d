"""The user's own evaluation: the library's numbers, item by item, and intervals that mean something."""

from __future__ import annotations

import functools
import itertools
import json
import math
from typing import Any

import numpy
import pytest

from helpers.models import sentence_base
from ingraft.errors import UnusableInput
from ingraft.training.evaluation import evaluate
from ingraft.training.tasks import RetrievalTask, SimilarityTask
from ingraft.verification.tasks import check_task, compare_task, measure

WORDS = [
    "fever", "cough", "pain", "chest", "acute", "chronic", "hand", "foot", "fracture", "open", "closed", "diabetes",
    "blood", "kidney",
]  # fmt: skip
PAIRS = {
    "sentences1": [f"{a} {b}" for a in WORDS[:6] for b in WORDS[6:10]],
    "sentences2": [f"{b} left {a}" for a in WORDS[4:10] for b in WORDS[:4]],
    "scores": [float((7 * number) % 5) for number in range(24)],
}
SEARCH = {
    "queries": {f"q{n}": f"{word} pain" for n, word in enumerate(WORDS[:6])},
    "corpus": {f"d{n}": f"{word} of the {other}" for n, (word, other) in enumerate(itertools.pairwise(WORDS))},
    "relevant": {f"q{n}": [f"d{n}", f"d{n + 3}"] for n in range(6)},
}


@functools.cache
def model() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(sentence_base("bert")), device="cpu")


def test_retrieval_is_what_the_library_measures() -> None:
    relevant = {query: set(documents) for query, documents in SEARCH["relevant"].items()}
    expected = evaluate(model(), RetrievalTask(SEARCH["queries"], SEARCH["corpus"], relevant))

    items = measure(model(), SEARCH)
    found = compare_task(SEARCH, items, items, items)

    assert [row["metric"] for row in found["metrics"]] == ["nDCG@10", "MRR@10", "recall@10"]
    assert found["metrics"][0]["merged"] == pytest.approx(expected["nDCG@10"], abs=1e-12)
    assert all(len(values) == 6 for values in items.values())
    assert len(set(items["nDCG@10"])) > 1
    assert (found["kind"], found["items"], found["documents"]) == ("retrieval", 6, 13)


def test_spearman_is_what_the_library_measures() -> None:
    expected = evaluate(model(), SimilarityTask(**PAIRS))["Spearman"]

    items = measure(model(), PAIRS)
    found = compare_task(PAIRS, items, items, items)

    assert found["metrics"][0]["base"] == pytest.approx(expected, abs=1e-9)
    assert (found["kind"], found["items"], found["documents"]) == ("pairs", 24, None)
    assert json.loads(json.dumps(found)) == found


def test_models_that_are_the_same_differ_by_nothing_and_others_by_an_interval() -> None:
    random = numpy.random.default_rng(3)
    base = random.random(400)
    adapted = base + 0.1 + random.normal(0, 0.2, 400)
    items = [{"nDCG@10": list(map(float, values))} for values in (base, adapted, adapted)]

    (row,) = compare_task({"queries": {}, "corpus": {}, "relevant": {}}, *items)["metrics"]

    assert row["merged_minus_adapted"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    gain = row["adapted_minus_base"]
    assert gain["low"] < gain["difference"] < gain["high"]
    expected = 1.96 * float((adapted - base).std()) / math.sqrt(400)
    assert gain["high"] - gain["low"] == pytest.approx(2 * expected, rel=0.15)
    assert gain["difference"] == pytest.approx(float((adapted - base).mean()))


def test_pairs_are_drawn_together() -> None:
    """The adapted model orders the pairs as the scores do: the gain is sure, whatever pairs are drawn."""
    random = numpy.random.default_rng(4)
    scores = [float(score) for score in random.random(200)]
    task = {"sentences1": [""] * 200, "sentences2": [""] * 200, "scores": scores}
    base = [score + float(noise) for score, noise in zip(scores, random.normal(0, 0.5, 200), strict=True)]

    (row,) = compare_task(task, {"Spearman": base}, {"Spearman": scores}, {"Spearman": scores})["metrics"]

    assert row["adapted"] == pytest.approx(1.0)
    assert 0 < row["adapted_minus_base"]["low"] < row["adapted_minus_base"]["high"] < 1


@pytest.mark.parametrize(
    ("task", "model_class", "possible"),
    [(PAIRS, "CrossEncoder", True), (SEARCH, "SentenceTransformer", True), (SEARCH, "CrossEncoder", False)],
)
def test_tasks_that_a_model_cannot_do_are_refused(task: dict[str, Any], model_class: str, possible: bool) -> None:
    if possible:
        check_task(task, model_class)
        return
    with pytest.raises(UnusableInput, match="A CrossEncoder cannot be measured with a task of retrieval"):
        check_task(task, model_class)
