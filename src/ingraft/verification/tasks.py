"""The user's own evaluation of base, adapted and merged model: what the adapter gained, and what the merge keeps of it.

A task is what JSON can hold: `queries`, `corpus` and `relevant` (ids → texts, query id → document ids), measured by
retrieval; or `sentences1`, `sentences2` and `scores`, measured by Spearman's ρ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from ingraft.errors import UnusableInput

Task: TypeAlias = Mapping[str, Any]
# Metric → one number per item: a query's own metric, a pair's similarity.
Items: TypeAlias = Mapping[str, list[float]]
_Wide: TypeAlias = NDArray[numpy.float64]

RESAMPLES, CONFIDENCE = 1000, 0.95
_SPEARMAN = "Spearman"
_AT = 10
_METRICS = {f"nDCG@{_AT}": "ndcg@k", f"MRR@{_AT}": "mrr@k", f"recall@{_AT}": "recall@k"}
_BATCH = 32
_CHUNK = 2_000_000  # numbers of resamples at a time


def check_task(task: Task, model_class: str) -> None:
    """Raise UnusableInput when a model of this class cannot be measured with the task."""
    possible = ("SentenceTransformer", "CrossEncoder") if _is_pairs(task) else ("SentenceTransformer",)
    if model_class not in possible:
        kind = "pairs with scores" if _is_pairs(task) else "retrieval"
        raise UnusableInput(f"A {model_class} cannot be measured with a task of {kind}: {' or '.join(possible)} can.")


def measure(model: Any, task: Task) -> Items:
    """Metric → the number of every item, measured with the model's own similarity and prompts, as it would be used."""
    return {_SPEARMAN: _similarities(model, task)} if _is_pairs(task) else _retrieval(model, task)


def compare_task(task: Task, base: Items, adapted: Items, merged: Items) -> dict[str, Any]:
    """What was measured, in JSON types: metrics of the three models, and paired bootstrap intervals of differences.

    The same items are drawn for all three models, `RESAMPLES` times with a fixed seed; an interval holds the middle
    95 % of the differences.
    """
    gold = numpy.asarray(task["scores"], dtype=numpy.float64) if _is_pairs(task) else None
    metrics = []
    for name in adapted:
        rows = numpy.asarray([base[name], adapted[name], merged[name]], dtype=numpy.float64)
        statistic = _mean if gold is None else _spearman_with(gold)
        whole = statistic(rows, numpy.arange(rows.shape[1])[None])[:, 0]
        drawn = _resampled(rows, statistic)
        metrics.append(
            {
                "metric": name,
                "base": float(whole[0]),
                "adapted": float(whole[1]),
                "merged": float(whole[2]),
                "adapted_minus_base": _interval(whole[1] - whole[0], drawn[1] - drawn[0]),
                "merged_minus_adapted": _interval(whole[2] - whole[1], drawn[2] - drawn[1]),
            }
        )
    items = len(next(iter(adapted.values())))
    return {
        "kind": "pairs" if gold is not None else "retrieval",
        "items": items,
        "documents": None if gold is not None else len(task["corpus"]),
        "resamples": RESAMPLES,
        "confidence": CONFIDENCE,
        "metrics": metrics,
    }


def _is_pairs(task: Task) -> bool:
    return "scores" in task


def _similarities(model: Any, task: Task) -> list[float]:
    first, second = list(task["sentences1"]), list(task["sentences2"])
    if not hasattr(model, "similarity_pairwise"):  # a cross-encoder scores pairs itself
        scores = model.predict(list(zip(first, second, strict=True)), batch_size=_BATCH, show_progress_bar=False)
        if numpy.ndim(scores) > 1 and numpy.shape(scores)[1] > 1:
            raise UnusableInput("The CrossEncoder has several classes; pairs with scores measure one score.")
        return [float(score) for score in numpy.reshape(scores, -1)]
    a, b = (model.encode(texts, batch_size=_BATCH, convert_to_tensor=True) for texts in (first, second))
    return [float(similarity) for similarity in model.similarity_pairwise(a, b)]


def _retrieval(model: Any, task: Task) -> Items:
    """Sentence Transformers' evaluator searches; it is then asked for the metrics of each query alone."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {query: set(documents) for query, documents in task["relevant"].items()}
    evaluator: Any = InformationRetrievalEvaluator(
        dict(task["queries"]),
        dict(task["corpus"]),
        relevant,
        ndcg_at_k=[_AT],
        mrr_at_k=[_AT],
        precision_recall_at_k=[_AT],
        accuracy_at_k=[_AT],
        map_at_k=[_AT],
        batch_size=_BATCH,
        write_csv=False,
    )
    of_all, hits = evaluator.compute_metrics, []

    def keep(found: list[Any]) -> Any:
        hits.extend(found)
        return of_all(found)

    evaluator.compute_metrics = keep
    evaluator(model)
    items: dict[str, list[float]] = {name: [] for name in _METRICS}
    queries = list(evaluator.queries_ids)
    for query, found in zip(queries, hits, strict=True):
        evaluator.queries_ids, evaluator.queries = [query], [task["queries"][query]]
        measured = of_all([found])
        for name, key in _METRICS.items():
            items[name].append(float(measured[key][_AT]))
    return items


_Statistic: TypeAlias = Callable[[_Wide, NDArray[Any]], _Wide]


def _mean(rows: _Wide, drawn: NDArray[Any]) -> _Wide:
    """rows: [models, items]; drawn: [resamples, items] → [models, resamples]."""
    found: _Wide = rows[:, drawn].mean(axis=2)
    return found


def _spearman_with(gold: _Wide) -> _Statistic:
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    def centred(values: _Wide) -> _Wide:
        ranks = rankdata(values, axis=-1)
        found: _Wide = ranks - ranks.mean(axis=-1, keepdims=True)
        return found

    def statistic(rows: _Wide, drawn: NDArray[Any]) -> _Wide:
        a, b = centred(rows[:, drawn]), centred(gold[drawn])[None]
        scale = numpy.sqrt((a**2).sum(axis=2) * (b**2).sum(axis=2))
        found: _Wide = (a * b).sum(axis=2) / numpy.where(scale > 0, scale, numpy.nan)
        return found

    return statistic


def _resampled(rows: _Wide, statistic: _Statistic) -> _Wide:
    """[models, RESAMPLES]: the statistic of items that are drawn with replacement, the same ones for all models."""
    random, items = numpy.random.default_rng(0), rows.shape[1]
    size = max(1, min(RESAMPLES, _CHUNK // items))
    parts = [
        statistic(rows, random.integers(0, items, (min(size, RESAMPLES - start), items)))
        for start in range(0, RESAMPLES, size)
    ]
    return numpy.concatenate(parts, axis=1)


def _interval(difference: float, drawn: _Wide) -> dict[str, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = numpy.nanpercentile(drawn, [tail, 100 - tail])
    return {"difference": float(difference), "low": float(low), "high": float(high)}
