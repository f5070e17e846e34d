"""Which loss of Sentence Transformers fits which rows: its loss table, as far as adapters have been trained with it.

Source: Sentence Transformers, Loss Overview. The first of each kind is the default.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ingraft.errors import UnusableInput, nearest
from ingraft.training.roles import Kind

if TYPE_CHECKING:
    from torch import nn

LOSSES: Mapping[Kind, tuple[str, ...]] = {
    # Every other row's positive is a wrong answer to tell apart.
    "pairs": (
        "MultipleNegativesRankingLoss",
        "CachedMultipleNegativesRankingLoss",
        "MultipleNegativesSymmetricRankingLoss",
        "CachedMultipleNegativesSymmetricRankingLoss",
        "TripletLoss",
    ),
    # CoSENT asks for the right order only, so that any scale of scores will do.
    "scored pairs": ("CoSENTLoss", "AnglELoss", "CosineSimilarityLoss"),
    "labelled pairs": ("OnlineContrastiveLoss", "ContrastiveLoss", "CoSENTLoss", "AnglELoss", "CosineSimilarityLoss"),
    "labelled texts": (
        "BatchAllTripletLoss",
        "BatchHardTripletLoss",
        "BatchSemiHardTripletLoss",
        "BatchHardSoftMarginTripletLoss",
    ),
}


def loss_name(kind: Kind, wanted: str = "auto", *, cached: bool = False) -> str:
    """The loss for rows of `kind`: what was asked for (in whatever case), or the table's; cached where that is wanted.

    UnusableInput when there is no such loss, or none for such rows.
    """
    fitting = LOSSES[kind]
    if wanted == "auto":
        return fitting[1] if cached and kind == "pairs" else fitting[0]
    by_plain_name = {name.lower(): name for name in fitting}
    if wanted.lower() not in by_plain_name:
        everything = [name for names in LOSSES.values() for name in names]
        is_known = wanted in everything
        found = "does not fit" if is_known else "is not known for"
        near = "" if is_known else nearest(wanted, fitting) or nearest(wanted, everything)
        raise UnusableInput(f"--loss {wanted} {found} {kind}{near}.", hint=f"For {kind}: {', '.join(fitting)}")
    return by_plain_name[wanted.lower()]


def check_loss_rows(name: str, roles: Mapping[str, Any]) -> None:
    """UnusableInput when the loss needs other columns than there are."""
    negatives = [role for role in roles if role.startswith("negative")]
    if name == "TripletLoss" and len(negatives) != 1:
        raise UnusableInput(f"TripletLoss needs one negative for each row; the data have {len(negatives)}.")


def make_loss(model: Any, name: str, arguments: Mapping[str, Any], matryoshka: tuple[int, ...]) -> nn.Module:
    """The loss on `model`, over the first dimensions of its embeddings as well where `matryoshka` names some."""
    from sentence_transformers.sentence_transformer import losses as library

    kind = getattr(library, name)
    accepted = [parameter for parameter in inspect.signature(kind).parameters if parameter != "model"]
    for argument in arguments:
        if argument not in accepted:
            raise UnusableInput(
                f"{name} has no argument {argument}{nearest(argument, accepted)}.",
                hint=f"It has: {', '.join(accepted)}",
            )
    try:
        loss: nn.Module = kind(model=model, **arguments)
    except (TypeError, ValueError) as error:
        raise UnusableInput(f"{name} refuses its arguments: {str(error).splitlines()[0]}") from None
    if matryoshka:
        return library.MatryoshkaLoss(model, loss, list(matryoshka_dimensions(model, matryoshka)))
    return loss


def matryoshka_dimensions(model: Any, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """`wanted` from large to small, with the whole embedding in front. UnusableInput when one is larger than that."""
    whole = model.get_embedding_dimension()
    if whole is not None and max(wanted) > whole:
        raise UnusableInput(f"--matryoshka names {max(wanted)}; the model's embeddings have {whole} dimensions.")
    return tuple(sorted({*wanted, *([whole] if whole else [])}, reverse=True))
