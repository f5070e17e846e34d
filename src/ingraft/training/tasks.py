"""What a model is measured on: retrieval for pairs, rank correlation for scores, and so on. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ingraft.training.beir import beir_texts, relevant_documents
from ingraft.training.data import TrainingData

# More documents make the task harder, not the comparison better, and each takes time on a CPU.
MAX_DOCUMENTS = 10_000


@dataclass(frozen=True)
class RetrievalTask:
    """Find each query's documents among all of `corpus`: id → text, id → text, query id → document ids."""

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    relevant: Mapping[str, set[str]]


@dataclass(frozen=True)
class SimilarityTask:
    """Order pairs of texts as `scores` order them."""

    sentences1: Sequence[str]
    sentences2: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True)
class LabelTask:
    """Tell pairs of texts with label 1 from those with label 0."""

    sentences1: Sequence[str]
    sentences2: Sequence[str]
    labels: Sequence[int]


Task: TypeAlias = RetrievalTask | SimilarityTask | LabelTask


def held_out_task(data: TrainingData, held_out: Sequence[int], *, seed: int = 0) -> Task | None:
    """What the rows at `held_out` can be measured with; None where they are too few to mean anything.

    The corpus of a retrieval task holds the positives of the held-out rows and those of all others, up to
    MAX_DOCUMENTS, drawn by `seed`.
    """
    rows = data.take(held_out)
    if data.kind == "labelled pairs":
        labels = rows.columns["label"]
        two = len(set(labels)) == 2
        return LabelTask(rows.columns["sentence1"], rows.columns["sentence2"], labels) if two else None
    if data.kind == "labelled texts":
        return _class_task(data, held_out, seed)
    if data.kind == "scored pairs":
        scores = rows.columns["score"]
        if len(set(scores)) < 2 or len(rows) < 3:
            return None
        return SimilarityTask(rows.columns["sentence1"], rows.columns["sentence2"], scores)
    if not held_out:
        return None
    anchors, positives = data.columns["anchor"], data.columns["positive"]
    documents = dict.fromkeys(positives[row] for row in held_out)
    others = [text for text in dict.fromkeys(positives) if text not in documents]
    room = max(0, MAX_DOCUMENTS - len(documents))
    documents |= dict.fromkeys(random.Random(seed).sample(others, min(room, len(others))))
    document_ids = {text: f"document-{number}" for number, text in enumerate(documents)}
    query_ids = {text: f"query-{n}" for n, text in enumerate(dict.fromkeys(anchors[row] for row in held_out))}
    relevant: dict[str, set[str]] = {identifier: set() for identifier in query_ids.values()}
    for anchor, positive in zip(anchors, positives, strict=True):
        if anchor in query_ids and positive in document_ids:
            relevant[query_ids[anchor]].add(document_ids[positive])
    return RetrievalTask(
        queries={identifier: text for text, identifier in query_ids.items()},
        corpus={identifier: text for text, identifier in document_ids.items()},
        relevant=relevant,
    )


def _class_task(data: TrainingData, held_out: Sequence[int], seed: int) -> RetrievalTask | None:
    """Find the other rows' texts of the same class from a held-out text."""
    texts, labels = data.columns["text"], data.columns["label"]
    held = set(held_out)
    others = [row for row in range(len(data)) if row not in held]
    if not held or not others:
        return None
    corpus = sorted(random.Random(seed).sample(others, min(MAX_DOCUMENTS, len(others))))
    by_class: dict[int, set[str]] = {}
    for row in corpus:
        by_class.setdefault(labels[row], set()).add(f"document-{row}")
    queries = [row for row in held_out if labels[row] in by_class]
    return RetrievalTask(
        queries={f"query-{row}": texts[row] for row in queries},
        corpus={f"document-{row}": texts[row] for row in corpus},
        relevant={f"query-{row}": by_class[labels[row]] for row in queries},
    )


def task_of_beir(path: Path, split: str, *, seed: int = 0) -> RetrievalTask:
    """The queries that a split judges, among its documents and others up to MAX_DOCUMENTS, drawn by `seed`."""
    queries, corpus = beir_texts(path)
    relevant = {
        query: documents & set(corpus)
        for query, documents in relevant_documents(path, split).items()
        if query in queries and documents & set(corpus)
    }
    needed = set().union(*relevant.values()) if relevant else set()
    others = [identifier for identifier in corpus if identifier not in needed]
    room = max(0, MAX_DOCUMENTS - len(needed))
    kept = needed | set(random.Random(seed).sample(others, min(room, len(others))))
    return RetrievalTask(
        queries={query: queries[query] for query in relevant},
        corpus={identifier: text for identifier, text in corpus.items() if identifier in kept},
        relevant=relevant,
    )
