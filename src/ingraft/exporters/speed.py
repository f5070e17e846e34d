"""Texts a second on this machine: a comparison of the forms of one model, no benchmark."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.verification.encoding import text_pairs

_BATCH = 32
_SECONDS, _REPEATS = 1.0, 7


def texts_per_second(live: Any, model_class: str, texts: Sequence[str]) -> float:
    """Median over some rounds of encoding `texts` in batches of 32, tokenizer and all other modules included."""
    rounds: list[float] = []
    with quiet():
        _encode(live, model_class, texts[:2])
        while len(rounds) < _REPEATS and sum(rounds) < _SECONDS:
            started = time.perf_counter()
            _encode(live, model_class, texts)
            rounds.append(time.perf_counter() - started)
    return len(texts) / median(rounds)


def _encode(live: Any, model_class: str, texts: Sequence[str]) -> None:
    if model_class == "CrossEncoder":
        live.predict(text_pairs(texts), batch_size=_BATCH, show_progress_bar=False)
    elif model_class == "MultiVectorEncoder":
        live.encode_document(list(texts), batch_size=_BATCH, show_progress_bar=False)
    else:
        live.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)
