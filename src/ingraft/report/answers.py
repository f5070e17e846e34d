"""What three models answer to the same texts: base, base + adapter, merged; as numbers for plots and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from ingraft.verification.answers import Answers

Rows: TypeAlias = NDArray[Any]
_MOST_PAIRS = 800
_MOST_TEXTS = 2000
_NEIGHBOURS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Pair:
    """Two texts and how near they are to each other in each model; for a cross-encoder: a text's score."""

    texts: tuple[str, ...]
    base: float
    adapted: float
    merged: float

    @property
    def moved(self) -> float:
        """What the adapter does to it."""
        return self.adapted - self.base


@dataclass(frozen=True)
class TextDistance:
    """‖x − adapted‖ / ‖adapted‖ of one text's outputs: for the merged model, and for the base."""

    text: str
    merged: float
    base: float


@dataclass(frozen=True)
class Agreement:
    """Of the `k` nearest neighbours that base + adapter finds for a text, the share that the other model finds too."""

    k: int
    merged: float
    base: float


@dataclass(frozen=True)
class Comparison:
    """quantity   what a pair's numbers are, in words
    sampled    True where a part of the pairs was drawn
    """

    quantity: str
    pairs: tuple[Pair, ...]
    sampled: bool
    distances: tuple[TextDistance, ...]
    agreement: tuple[Agreement, ...]


def compare_answers(answers: Answers) -> Comparison | None:
    """None where the models' outputs have different shapes and cannot be set against each other."""
    if not answers.base.shape == answers.adapted.shape == answers.merged.shape or not len(answers.adapted):
        return None
    with numpy.errstate(invalid="ignore", over="ignore"):  # a broken model's answers may be NaN or infinite
        return _compared(answers)


def _compared(answers: Answers) -> Comparison:
    distances = _distances(answers)
    if answers.model_class == "CrossEncoder":
        return Comparison("score", _scores(answers), False, distances, ())
    base, adapted, merged = (_directions(rows, answers) for rows in (answers.base, answers.adapted, answers.merged))
    first, second, sampled = _pairs(len(base))
    similarities = [(rows[first] * rows[second]).sum(axis=1) for rows in (base, adapted, merged)]
    pairs = tuple(
        Pair((answers.texts[i], answers.texts[j]), float(b), float(a), float(m))
        for i, j, b, a, m in zip(first, second, *similarities, strict=True)
    )
    return Comparison("cosine similarity", pairs, sampled, distances, _agreement(base, adapted, merged))


def _directions(rows: Rows, answers: Answers) -> NDArray[numpy.float64]:
    """One unit vector per text: its first row, of a model with a row per token the mean of them. [texts, width]"""
    count = len(answers.texts)
    if answers.model_class == "MultiVectorEncoder":
        found = numpy.zeros((count, rows.shape[1]), dtype=numpy.float64)
        numpy.add.at(found, answers.of_text, rows)
    else:
        _, first = numpy.unique(answers.of_text, return_index=True)
        found = rows[first].astype(numpy.float64)
    norms = numpy.linalg.norm(found, axis=1, keepdims=True)
    directions: NDArray[numpy.float64] = found / numpy.where(norms > 0, norms, 1.0)
    return directions


def _pairs(count: int) -> tuple[Rows, Rows, bool]:
    """All pairs of `count` texts, or as many as a plot can show, drawn with a fixed seed."""
    if count * (count - 1) // 2 <= _MOST_PAIRS:
        first, second = numpy.triu_indices(count, 1)
        return first, second, False
    random = numpy.random.default_rng(0)
    first = random.integers(0, count, _MOST_PAIRS)
    second = (first + random.integers(1, count, _MOST_PAIRS)) % count
    return first, second, True


def _scores(answers: Answers) -> tuple[Pair, ...]:
    """Every score, the first label's where there are several."""
    columns = (rows.reshape(len(rows), -1)[:_MOST_PAIRS, 0] for rows in (answers.base, answers.adapted, answers.merged))
    return tuple(
        Pair((answers.texts[text],), float(b), float(a), float(m))
        for text, b, a, m in zip(answers.of_text[:_MOST_PAIRS], *columns, strict=True)
    )


def _distances(answers: Answers) -> tuple[TextDistance, ...]:
    whole = _squares(answers.adapted, answers)
    merged = _squares(answers.merged.astype(numpy.float64) - answers.adapted, answers)
    base = _squares(answers.base.astype(numpy.float64) - answers.adapted, answers)
    scale = numpy.maximum(whole, 1e-30)
    return tuple(
        TextDistance(text, float(m), float(b))
        for text, m, b in zip(answers.texts, numpy.sqrt(merged / scale), numpy.sqrt(base / scale), strict=True)
    )


def _squares(rows: Rows, answers: Answers) -> NDArray[numpy.float64]:
    """Σ x² over the rows of each text."""
    weights = (rows.astype(numpy.float64) ** 2).sum(axis=1)
    found: Any = numpy.bincount(answers.of_text, weights, minlength=len(answers.texts))
    return numpy.asarray(found, dtype=numpy.float64)


def _agreement(base: Rows, adapted: Rows, merged: Rows) -> tuple[Agreement, ...]:
    part = slice(_MOST_TEXTS)
    found = [_ranking(rows[part]) for rows in (base, adapted, merged)]
    sizes = [k for k in _NEIGHBOURS if k < len(adapted[part]) - 1]
    return tuple(Agreement(k, _shared(found[2], found[1], k), _shared(found[0], found[1], k)) for k in sizes)


def _ranking(directions: Rows) -> Rows:
    """The nearest texts of every text, nearest first, itself left out."""
    nearness = directions @ directions.T
    numpy.fill_diagonal(nearness, -numpy.inf)
    return numpy.argsort(-nearness, axis=1, kind="stable")[:, : max(_NEIGHBOURS)]


def _shared(one: Rows, other: Rows, k: int) -> float:
    return float(numpy.mean([len(set(a[:k]) & set(b[:k])) / k for a, b in zip(one, other, strict=True)]))
