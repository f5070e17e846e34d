"""What a model answers to texts: all outputs as rows of numbers, in the same order for two models of one class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

Rows = NDArray[numpy.float32]
_BATCH = 8
_PROMPTED = 8  # texts that each named prompt is tried on


@dataclass(frozen=True)
class Outputs:
    """rows: [n, width]; of_text: for each row the number of its text, so that a text may have many rows."""

    rows: Rows
    of_text: NDArray[numpy.int64]


def outputs(model: Any, model_class: str, texts: Sequence[str], *, batch_size: int = _BATCH) -> Outputs:
    """Every way in which `model` encodes: as it is, with each of its prompts, along each of its routes.

    CrossEncoder: the scores of pairs of the texts, without an activation. MultiVectorEncoder: a row for every token.
    SparseEncoder: dense rows as wide as the vocabulary.
    """
    rows: list[Rows] = []
    owners: list[int] = []
    with torch.inference_mode():
        for number, found in _answers(model, model_class, list(texts), batch_size):
            part = numpy.atleast_2d(numpy.asarray(found, dtype=numpy.float32))
            rows.append(part)
            owners += [number] * len(part)
    return Outputs(numpy.concatenate(rows), numpy.asarray(owners, dtype=numpy.int64))


def _answers(model: Any, model_class: str, texts: list[str], batch_size: int) -> Iterator[tuple[int, Any]]:
    """(number of the text, its row or rows)."""
    if model_class == "CrossEncoder":
        pairs = text_pairs(texts)
        scores = model.predict(
            pairs,
            batch_size=batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
            convert_to_numpy=True,
        )
        yield from enumerate(numpy.asarray(scores).reshape(len(pairs), -1))
        return
    for name, arguments, chosen in _ways(model, model_class, texts):
        encoded = getattr(model, name)(chosen, batch_size=batch_size, show_progress_bar=False, **arguments)
        yield from enumerate(_as_arrays(encoded))


def text_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Each text with another one: what a CrossEncoder is asked."""
    return [(text, texts[(position * 5 + 3) % len(texts)]) for position, text in enumerate(texts)]


def _ways(model: Any, model_class: str, texts: list[str]) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """(method, arguments, texts)."""
    kind: dict[str, Any] = {"convert_to_tensor": True}
    if model_class == "SparseEncoder":
        kind["convert_to_sparse_tensor"] = False
    if model_class == "MultiVectorEncoder":
        kind = {"convert_to_numpy": True}
    if model_class == "MultiVectorEncoder" or _routes(model):
        yield "encode_query", kind, texts
        yield "encode_document", kind, texts
        return
    yield "encode", kind, texts
    for prompt, text in sorted((getattr(model, "prompts", None) or {}).items()):
        if text:
            yield "encode", {**kind, "prompt_name": prompt}, texts[:_PROMPTED]


def _routes(model: Any) -> bool:
    return any(isinstance(getattr(module, "sub_modules", None), torch.nn.ModuleDict) for module in model.modules())


def _as_arrays(encoded: Any) -> list[Any]:
    if isinstance(encoded, torch.Tensor):
        return list(encoded.float().cpu().numpy())
    return [item.float().cpu().numpy() if isinstance(item, torch.Tensor) else item for item in encoded]
