"""Measure a model on a task, with the library's own evaluator for its type."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias

from ingraft.training.tasks import RetrievalTask, SimilarityTask, Task

Metrics: TypeAlias = Mapping[str, float]

_BATCH = 64
# What a cross-encoder chooses among: it reads each pair, so that a whole corpus would take hours.
RERANKED = 30


def evaluate(model: Any, task: Task) -> dict[str, float]:
    """What a task is measured by; each is at most 1.

    retrieval   nDCG@10 and accuracy@1; for a CrossEncoder nDCG@10 and MRR@10 of the relevant documents among others,
                RERANKED in all
    similarity  Spearman's ρ
    labels      average precision (AP)
    Measured with the model's own similarity and its prompts for queries and documents, as it would be used.
    """
    kind = type(model).__name__
    if kind == "CrossEncoder":
        return _evaluate_cross_encoder(model, task)
    if isinstance(task, RetrievalTask):
        return _retrieval(model, task, kind)
    from sentence_transformers.sentence_transformer import evaluation as dense
    from sentence_transformers.sparse_encoder import evaluation as sparse

    common: dict[str, Any] = {"batch_size": _BATCH, "write_csv": False}
    evaluator: Any
    similarity = model.similarity_fn_name
    if isinstance(task, SimilarityTask):
        similar = (
            sparse.SparseEmbeddingSimilarityEvaluator if kind == "SparseEncoder" else dense.EmbeddingSimilarityEvaluator
        )
        evaluator = similar(list(task.sentences1), list(task.sentences2), list(task.scores), **common)
        return {"Spearman": float(evaluator(model)[f"spearman_{similarity}"])}
    binary = (
        sparse.SparseBinaryClassificationEvaluator if kind == "SparseEncoder" else dense.BinaryClassificationEvaluator
    )
    evaluator = binary(list(task.sentences1), list(task.sentences2), list(task.labels), **common)
    return {"AP": float(evaluator(model)[f"{similarity}_ap"])}


def _retrieval(model: Any, task: RetrievalTask, kind: str) -> dict[str, float]:
    evaluator: Any
    if kind == "MultiVectorEncoder":
        from sentence_transformers.multi_vector_encoder import evaluation as multi

        evaluator = multi.MultiVectorInformationRetrievalEvaluator
    elif kind == "SparseEncoder":
        from sentence_transformers.sparse_encoder import evaluation as sparse

        evaluator = sparse.SparseInformationRetrievalEvaluator
    else:
        from sentence_transformers.sentence_transformer import evaluation as dense

        evaluator = dense.InformationRetrievalEvaluator
    measured = evaluator(
        dict(task.queries), dict(task.corpus), dict(task.relevant), batch_size=_BATCH, write_csv=False
    )(model)

    def metric(name: str) -> float:
        # `cosine_ndcg@10`, `maxsim_ndcg@10`: one similarity was asked for.
        [value] = [value for key, value in measured.items() if key.endswith(name)]
        return float(value)

    return {"nDCG@10": metric("_ndcg@10"), "accuracy@1": metric("_accuracy@1")}


def _evaluate_cross_encoder(model: Any, task: Task) -> dict[str, float]:
    from sentence_transformers.cross_encoder import evaluation

    evaluator: Any
    if isinstance(task, RetrievalTask):
        evaluator = evaluation.CrossEncoderRerankingEvaluator(_candidates(task), batch_size=_BATCH, write_csv=False)
        measured = evaluator(model)
        return {"nDCG@10": float(measured["ndcg@10"]), "MRR@10": float(measured["mrr@10"])}
    pairs = [list(pair) for pair in zip(task.sentences1, task.sentences2, strict=True)]
    if isinstance(task, SimilarityTask):
        evaluator = evaluation.CrossEncoderCorrelationEvaluator(pairs, list(task.scores), write_csv=False)
        return {"Spearman": float(evaluator(model)["spearman"])}
    evaluator = evaluation.CrossEncoderClassificationEvaluator(pairs, list(task.labels), write_csv=False)
    return {"AP": float(evaluator(model)["average_precision"])}


def _candidates(task: RetrievalTask) -> list[dict[str, Any]]:
    """For each query its relevant documents and, drawn with a fixed seed, as many others as make RERANKED."""
    rng = random.Random(0)
    identifiers = list(task.corpus)
    samples: list[dict[str, Any]] = []
    for query, text in task.queries.items():
        relevant = task.relevant[query]
        drawn = rng.sample(identifiers, min(len(identifiers), RERANKED + len(relevant)))
        others = [identifier for identifier in drawn if identifier not in relevant]
        others = others[: max(1, RERANKED - len(relevant))]
        samples.append(
            {
                "query": text,
                "positive": [task.corpus[identifier] for identifier in sorted(relevant)],
                "negative": [task.corpus[identifier] for identifier in others],
            }
        )
    return samples
