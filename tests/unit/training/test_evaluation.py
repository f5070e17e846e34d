"""What held-out rows are measured with, and that the figures are those of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ingraft.training import tasks
from ingraft.training.data import Kind, TrainingData
from ingraft.training.evaluation import evaluate
from ingraft.training.tasks import RetrievalTask, SimilarityTask, held_out_task
from unit.training.tiny_model import WORDS


def data(kind: Kind, **columns: list[Any]) -> TrainingData:
    return TrainingData(Path("rows.csv"), kind, {}, (), (), columns)


PAIRS = data("pairs", anchor=["a", "a", "b", "c"], positive=["1", "2", "2", "3"])


def test_all_positives_are_searched_and_all_of_a_query_are_relevant() -> None:
    task = held_out_task(PAIRS, [0, 3])
    assert isinstance(task, RetrievalTask)
    assert sorted(task.queries.values()) == ["a", "c"]
    assert sorted(task.corpus.values()) == ["1", "2", "3"]
    found = {task.queries[q]: sorted(task.corpus[d] for d in documents) for q, documents in task.relevant.items()}
    assert found == {"a": ["1", "2"], "c": ["3"]}


def test_a_capped_corpus_keeps_the_relevant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_DOCUMENTS", 3)
    rows = data("pairs", anchor=[f"q{n}" for n in range(50)], positive=[f"d{n}" for n in range(50)])
    task = held_out_task(rows, [7, 30], seed=1)
    assert isinstance(task, RetrievalTask)
    assert len(task.corpus) == 3
    assert {"d7", "d30"} < set(task.corpus.values())
    assert task == held_out_task(rows, [7, 30], seed=1)


def test_nothing_to_measure() -> None:
    assert held_out_task(PAIRS, []) is None
    scored = data("scored pairs", sentence1=list("abc"), sentence2=list("def"), score=[0.5, 0.5, 0.5])
    assert held_out_task(scored, [0, 1, 2]) is None  # no order to find
    assert held_out_task(scored, [0, 1]) is None


def test_scored_rows_are_compared_by_rank() -> None:
    scored = data("scored pairs", sentence1=list("abcd"), sentence2=list("efgh"), score=[1.0, 2.0, 3.0, 4.0])
    assert held_out_task(scored, [3, 0, 1]) == SimilarityTask(list("dab"), list("hef"), [4.0, 1.0, 2.0])


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


def test_figures_of_a_retrieval(model: Any) -> None:
    texts = {str(number): word for number, word in enumerate(WORDS)}
    right = RetrievalTask(texts, texts, {number: {number} for number in texts})
    assert evaluate(model, right) == {"nDCG@10": 1.0, "accuracy@1": 1.0}
    half = RetrievalTask(texts, texts, {n: {n if int(n) % 2 else str((int(n) + 1) % len(texts))} for n in texts})
    measured = evaluate(model, half)
    assert measured["accuracy@1"] == 0.5
    assert 0.5 < measured["nDCG@10"] < 1


def test_figures_of_a_similarity(model: Any) -> None:
    from scipy.stats import spearmanr

    first, second, scores = WORDS[:8], WORDS[8:16], [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    a, b = (model.encode(texts, convert_to_tensor=True) for texts in (first, second))
    cosines = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    expected = spearmanr(scores, cosines.cpu().numpy()).statistic
    assert evaluate(model, SimilarityTask(first, second, scores)) == {"Spearman": pytest.approx(expected)}
