"""Does an export answer what the merged model answers? Every text, alone and in batches, short, long and cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput, first_line
from ingraft.verification.encoding import Outputs, outputs
from ingraft.verification.report import Check
from ingraft.verification.shaking import shaken
from ingraft.verification.texts import TEXTS

_LONG = " ".join(TEXTS)
# A text of more tokens than the model takes is cut off; one for a model that takes tens of thousands would take hours.
_CUT_OFF_BELOW = 2048
_BATCHES = (1, 8)
_WIDE_BATCH = 32
# As in `ingraft verify`: shaking every weight by 2⁻²² is what computing in another order does to float32, and less.
_UNIT = 2.0**-22
_FACTOR = 6.0


@dataclass(frozen=True)
class Difference:
    """Two models' answers to the same texts.

    worst    the largest ‖export − model‖ of a row, as a share of the rows' root mean square norm
    text     the text of that row, and `batch` the batch size it was in
    max_abs  the largest difference of a single number
    cosine   the smallest between two rows; 1 for scores
    """

    worst: float
    text: str
    batch: int
    max_abs: float
    cosine: float


@dataclass(frozen=True)
class Run:
    """What a model answers to `texts` in batches of `batch`."""

    batch: int
    texts: tuple[str, ...]
    outputs: Outputs


def parity_texts(live: Any, own: Sequence[str] | None = None) -> tuple[str, ...]:
    """The texts of `ingraft verify` (or `own`), a long one, and one that is longer than the model takes."""
    limit = live[0].max_seq_length or _CUT_OFF_BELOW
    texts = tuple(own or TEXTS)
    if limit > _CUT_OFF_BELOW:
        return (*texts, _LONG)
    return (*texts, _LONG, " ".join([_LONG] * (1 + limit // len(_LONG.split()))))


def answers(live: Any, model_class: str, texts: Sequence[str]) -> tuple[Run, ...]:
    """All texts alone and in batches of 8, and the short ones 32 at a time. UnusableInput when the model fails."""
    short = tuple(text for text in texts if len(text) < len(_LONG))
    plan = [(size, tuple(texts)) for size in _BATCHES] + ([(_WIDE_BATCH, short)] if short else [])
    try:
        with quiet():
            return tuple(Run(size, some, outputs(live, model_class, some, batch_size=size)) for size, some in plan)
    except Exception as error:  # whatever a model's code raises for its input
        reason = first_line(error)
        raise UnusableInput(f"The model cannot be run: {reason}") from None


def difference(model: Sequence[Run], export: Sequence[Run]) -> Difference:
    """How far `export` is from `model`, over all runs."""
    worst, text, batch, max_abs, cosine = 0.0, "", 0, 0.0, 1.0
    for mine, other in zip(model, export, strict=True):
        a, b = mine.outputs.rows.astype(numpy.float64), other.outputs.rows.astype(numpy.float64)
        if a.shape != b.shape:
            return Difference(float("inf"), mine.texts[0], mine.batch, float("inf"), 0.0)
        shares = numpy.linalg.norm(b - a, axis=1) / _typical_norm(a)
        shares[numpy.isnan(shares)] = numpy.inf
        row = int(numpy.argmax(shares))
        if shares[row] >= worst:
            worst, batch = float(shares[row]), mine.batch
            text = mine.texts[int(mine.outputs.of_text[row])]
        max_abs = max(max_abs, float(numpy.abs(b - a).max()))
        cosine = min(cosine, _smallest_cosine(a, b))
    return Difference(worst, text, batch, max_abs, cosine)


def rounding(live: Any, model_class: str, texts: Sequence[str], model: Sequence[Run]) -> float:
    """What may differ: six times the worst row when every weight moves by float32's rounding (and stays so, nearly)."""
    weights = [value for value in live.parameters() if value.is_floating_point()]
    with quiet(), shaken(weights, _UNIT, seed=1):
        moved = outputs(live, model_class, texts, batch_size=_BATCHES[1])
    still = model[1].outputs.rows.astype(numpy.float64)  # the run with the same batches
    rows = numpy.linalg.norm(moved.rows - still, axis=1) / _typical_norm(still)
    return _FACTOR * float(rows.max())


def parity_check(found: Difference, allowed: float, runtime: str) -> Check:
    """The difference as a check that a report can show."""
    return Check(
        f"{runtime} answers",
        bool(found.worst <= allowed),
        f"the worst ‖{runtime} − torch‖ of an answer, as a share of its norm; allowed is what rounding explains",
        found.worst,
        allowed,
        f"{found.text[:60]!r} in a batch of {found.batch}",
    )


def _typical_norm(rows: Any) -> float:
    return float(numpy.sqrt((rows**2).sum(axis=1).mean())) or 1.0


def _smallest_cosine(a: Any, b: Any) -> float:
    if a.shape[1] == 1:
        return 1.0
    norms = numpy.linalg.norm(a, axis=1) * numpy.linalg.norm(b, axis=1)
    kept = norms > 0
    return float(((a * b).sum(axis=1)[kept] / norms[kept]).min()) if kept.any() else 1.0
