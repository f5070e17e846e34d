"""The loss of a run: chosen by the format of the rows, checked, and made for a model."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.training.model_types import LOSSES
from ingraft.training.roles import Kind

if TYPE_CHECKING:
    from torch import nn

_PACKAGES = {
    "SentenceTransformer": "sentence_transformer",
    "CrossEncoder": "cross_encoder",
    "SparseEncoder": "sparse_encoder",
    "MultiVectorEncoder": "multi_vector_encoder",
}
# What keeps a SPLADE model sparse, as the examples of Sentence Transformers set it.
_SPLADE = {"query_regularizer_weight": 5e-5, "document_regularizer_weight": 3e-5}


def loss_name(
    kind: Kind, wanted: str = "auto", *, cached: bool = False, model_type: str = "SentenceTransformer"
) -> str:
    """The loss for rows of `kind`: what was asked for (in whatever case), or the table's; cached where that is wanted.

    UnusableInput when there is no such loss, or none for such rows.
    """
    losses = LOSSES[model_type]
    if kind not in losses:
        raise UnusableInput(f"A {model_type} is not trained on {kind}; expected {' or '.join(losses)}.")
    fitting = losses[kind]
    if wanted == "auto":
        if not cached:
            return fitting[0]
        found = next((name for name in fitting if name.startswith("Cached")), None)
        if found is None:
            raise UnusableInput(f"--mini-batch-size is for losses that can be cached, and there is none for {kind}.")
        return found
    by_plain_name = {name.lower(): name for name in fitting}
    if wanted.lower() not in by_plain_name:
        everything = [name for names in losses.values() for name in names]
        is_known = wanted in everything
        said = "does not fit" if is_known else "is not known for"
        near = "" if is_known else nearest(wanted, fitting) or nearest(wanted, everything)
        raise UnusableInput(f"--loss {wanted} {said} {kind}{near}.", hint=f"For {kind}: {', '.join(fitting)}")
    return by_plain_name[wanted.lower()]


def cached_form(name: str, kind: Kind, model_type: str) -> str | None:
    """The loss that gives the same as `name` and embeds a few rows at a time; None where there is none."""
    cached = f"Cached{name}"
    return cached if cached in LOSSES[model_type].get(kind, ()) else None


def check_loss_rows(name: str, columns: Mapping[str, Any]) -> None:
    """UnusableInput when the loss needs other columns, or other scores, than there are."""
    negatives = [role for role in columns if role.startswith("negative")]
    if name.endswith("TripletLoss") and "anchor" in columns and len(negatives) != 1:
        raise UnusableInput(f"{name} needs one negative for each row; the data have {len(negatives)}.")
    scores = columns.get("score")
    if name == "BinaryCrossEntropyLoss" and scores is not None and not all(0 <= score <= 1 for score in scores):
        raise UnusableInput(
            f"{name} needs scores from 0 to 1; the data have {min(scores):g} to {max(scores):g}.",
            hint="Divide them by the highest, or take --loss MSELoss.",
        )


def make_loss(
    model: Any,
    name: str,
    arguments: Mapping[str, Any],
    *,
    matryoshka: tuple[int, ...] = (),
    gather: bool = False,
) -> nn.Module:
    """The loss on `model`.

    matryoshka  take it at the first dimensions of the embeddings as well
    gather      let other processes' rows be wrong answers too, where the loss knows how
    """
    model_type = type(model).__name__
    library = importlib.import_module(f"sentence_transformers.{_PACKAGES[model_type]}.losses")
    kind = getattr(library, name)
    accepted = [parameter for parameter in inspect.signature(kind).parameters if parameter != "model"]
    outer = dict(_SPLADE) if is_splade(model) else {}
    known = [*accepted, *outer]
    for argument in arguments:
        if argument not in known:
            raise UnusableInput(
                f"{name} has no argument {argument}{nearest(argument, known)}.", hint=f"It has: {', '.join(known)}"
            )
    own = {argument: value for argument, value in arguments.items() if argument in accepted}
    if gather and "gather_across_devices" in accepted:
        own.setdefault("gather_across_devices", True)
    try:
        loss: nn.Module = kind(model=model, **own)
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"{name} refuses its arguments: {first_line(error)}") from None
    if outer:
        outer |= {argument: value for argument, value in arguments.items() if argument in outer}
        splade: nn.Module = library.SpladeLoss(model=model, loss=loss, **outer)
        return splade
    if matryoshka:
        several: nn.Module = library.MatryoshkaLoss(model, loss, list(matryoshka_dimensions(model, matryoshka)))
        return several
    return loss


def is_splade(model: Any) -> bool:
    """Does `model` embed a text as the words that a masked language model would fill in?"""
    return any(type(module).__name__ == "SpladePooling" for module in model)


def matryoshka_dimensions(model: Any, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """`wanted` from large to small, with the whole embedding in front. UnusableInput when one is larger than that."""
    whole = model.get_embedding_dimension()
    if whole is not None and max(wanted) > whole:
        raise UnusableInput(f"--matryoshka names {max(wanted)}; the model's embeddings have {whole} dimensions.")
    return tuple(sorted({*wanted, *([whole] if whole else [])}, reverse=True))
