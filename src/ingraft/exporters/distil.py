"""A model's answers to each single token, as model2vec distils them: one vector a token, no transformer left.

model2vec runs each token, between the special ones, through the transformer and pools it, takes the principal
components of all vectors, and weighs each by how common its rank in the vocabulary makes it (SIF, by Zipf's law).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput, first_line
from ingraft.exporters.sessions import require
from ingraft.exporters.source import Source
from ingraft.layout import TRANSFORMER_TYPES, Layout
from ingraft.progress import Progress

# model2vec's own defaults, except for float32 (there float16), which is also what Sentence Transformers distils in.
DIMENSIONS = 256
SIF_COEFFICIENT = 1e-4
LEFT_OUT = r"\[unused\d+\]"
DTYPE = "float32"
_POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last"}


@dataclass(frozen=True)
class Distilled:
    """tokenizer: one of the library `tokenizers`, without special tokens; vectors: float32 [tokens, dimensions]."""

    tokenizer: Any
    vectors: Any
    pooling: str

    @property
    def tokens(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])


def check_distillable(layout: Layout) -> None:
    """UnusableInput for a model that is more than transformer, pooling and Normalize, or no embedding model."""
    other = "Export it with --to onnx or --to openvino."
    if not layout.is_sentence_transformers or layout.model_class != "SentenceTransformer":
        what = layout.model_class if layout.is_sentence_transformers else "plain transformers model"
        raise UnusableInput(
            f"{layout.root} is a {what}; a static model is distilled from a SentenceTransformer with pooling.",
            hint=other,
        )
    kinds = [module.kind for module in layout.modules]
    further = [kind for kind in kinds[2:] if kind != "Normalize"]
    if kinds[0] not in TRANSFORMER_TYPES or kinds[1:2] != ["Pooling"] or further:
        raise UnusableInput(
            f"{layout.root} consists of {', '.join(kinds)}; model2vec distils Transformer, Pooling and Normalize.",
            hint=other,
        )


def distil(source: Source, *, dimensions: int | None, shown: Progress) -> Distilled:
    """Distil `source` with its own tokenizer, offline. UnusableInput when model2vec cannot.

    dimensions  principal components that are kept (default: DIMENSIONS, or as many as the model has)
    """
    pooling = _pooling(source)
    tokenizer = source.live[0].tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UnusableInput(
            f"{source.root} has no fast tokenizer ({type(tokenizer).__name__}), which a static model is made of.",
            hint="Save one with transformers, so that there is a tokenizer.json.",
        )
    width = int(source.live[1].get_embedding_dimension())
    if dimensions is not None and dimensions > width:
        raise UnusableInput(
            f"{source.root} has {width} dimensions; {dimensions} cannot be distilled from them.",
            hint=f"Pass --dimensions {width} or fewer.",
        )
    kept = dimensions or min(DIMENSIONS, width)
    transformer = source.live[0].model
    transformer.name_or_path = str(source.root)  # where model2vec finds no directory of this name it asks the Hub
    try:
        with quiet(), _told(shown):
            static = _distiller()(
                transformer,
                tokenizer,
                device="cpu",
                pca_dims=kept,
                sif_coefficient=SIF_COEFFICIENT,
                token_remove_pattern=LEFT_OUT,
                quantize_to=DTYPE,
                pooling=_POOLINGS[pooling],
            )
    except UnusableInput:
        raise
    except Exception as error:  # whatever model2vec raises for a model or a tokenizer
        reason = first_line(error)
        raise UnusableInput(f"{source.root} cannot be distilled: {reason}") from None
    found = Distilled(_unlimited(static.tokenizer), _weighted(static), pooling)
    if dimensions is not None and found.dimensions != dimensions:
        raise UnusableInput(
            f"{source.root} has {found.tokens} tokens, too few for {dimensions} principal components.",
            hint="Leave out --dimensions, or pass fewer.",
        )
    return found


def distiller_versions() -> dict[str, str]:
    """Versions of what distils."""
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("model2vec", "skeletoken")}


def require_distiller() -> None:
    """UnusableInput when model2vec or what it distils with is not installed."""
    for package in ("model2vec", "skeletoken", "model2vec.distill"):
        require(package, "static")


def _distiller() -> Any:
    return require("model2vec.distill", "static").distill_from_model


def _pooling(source: Source) -> str:
    modes = source.live[1].pooling_mode
    mode = modes if isinstance(modes, str) else "+".join(modes)
    if mode not in _POOLINGS:
        raise UnusableInput(
            f"{source.root} pools by {mode}; model2vec distils {', '.join(_POOLINGS)}.",
            hint="Export it with --to onnx or --to openvino.",
        )
    return mode


def _weighted(static: Any) -> Any:
    """The vectors with their weights in them, which releases keep apart or do not."""
    import numpy

    vectors = numpy.asarray(static.embedding, dtype=numpy.float32)
    if static.weights is not None:
        vectors = vectors * numpy.asarray(static.weights, dtype=numpy.float32)[:, None]
    return numpy.ascontiguousarray(vectors)


def _unlimited(tokenizer: Any) -> Any:
    """A mean of vectors has no longest text; the tokenizer still has the transformer's."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _told(shown: Progress) -> Iterator[None]:
    """model2vec's own bar becomes a stage of ours, and its log, which is no fault of the user's, is silent."""
    inference = require("model2vec.distill.inference", "static")

    class Bar:
        def __init__(self, total: int = 0, **_: Any) -> None:
            shown.begin("distil", total)

        def update(self, count: int) -> None:
            shown.advance(count)

    bar, disabled = inference.tqdm, logging.root.manager.disable
    logging.disable(logging.ERROR)
    inference.tqdm = Bar
    try:
        yield
    finally:
        inference.tqdm = bar
        logging.disable(disabled)
        shown.end()
