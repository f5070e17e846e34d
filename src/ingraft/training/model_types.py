"""The four model types of Sentence Transformers: which one a base is, and which losses fit which rows for each.

Source of the losses: the loss tables of Sentence Transformers, as far as adapters have been trained with them. The
first of each kind is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.layout import MODEL_CLASSES, read_layout
from ingraft.training.config import TrainingConfig
from ingraft.training.roles import Kind

Losses = Mapping[Kind, tuple[str, ...]]

LOSSES: Mapping[str, Losses] = {
    "SentenceTransformer": {
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
        "labelled pairs": (
            "OnlineContrastiveLoss",
            "ContrastiveLoss",
            "CoSENTLoss",
            "AnglELoss",
            "CosineSimilarityLoss",
        ),
        "labelled texts": (
            "BatchAllTripletLoss",
            "BatchHardTripletLoss",
            "BatchSemiHardTripletLoss",
            "BatchHardSoftMarginTripletLoss",
        ),
    },
    "CrossEncoder": {
        "pairs": ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"),
        "scored pairs": ("BinaryCrossEntropyLoss", "MSELoss"),
        "labelled pairs": ("BinaryCrossEntropyLoss",),
    },
    "SparseEncoder": {
        "pairs": ("SparseMultipleNegativesRankingLoss", "SparseTripletLoss"),
        "scored pairs": ("SparseCoSENTLoss", "SparseAnglELoss", "SparseCosineSimilarityLoss"),
    },
    "MultiVectorEncoder": {
        "pairs": ("MultiVectorMultipleNegativesRankingLoss", "CachedMultiVectorMultipleNegativesRankingLoss"),
    },
}


def choose_model_type(config: TrainingConfig, root: Path) -> str:
    """The class of Sentence Transformers that trains the model in `root`: as told, as saved, or by its head.

    A plain transformers model is a CrossEncoder if it was saved with a head for sequence classification, else a
    SentenceTransformer. UnusableInput for settings that the type does not have.
    """
    chosen = config.model_type if config.model_type != "auto" else read_layout(root).model_class or _by_head(root)
    assert chosen in MODEL_CLASSES
    for flag, value, types in (
        ("matryoshka", config.matryoshka, ("SentenceTransformer",)),
        ("mining.negatives", config.mining.negatives, ("SentenceTransformer",)),
        ("prompts.query", config.prompts.query, MODEL_CLASSES[:1] + MODEL_CLASSES[2:]),
        ("prompts.document", config.prompts.document, MODEL_CLASSES[:1] + MODEL_CLASSES[2:]),
    ):
        if value and chosen not in types:
            raise UnusableInput(f"--{flag} is nothing that a {chosen} has.", hint=f"It is for: {', '.join(types)}")
    return chosen


def _by_head(root: Path) -> str:
    config = root / "config.json"
    architectures = read_json_object(config).get("architectures") if config.is_file() else None
    heads = architectures if isinstance(architectures, list) else []
    is_classifier = any(str(name).endswith("ForSequenceClassification") for name in heads)
    return "CrossEncoder" if is_classifier else "SentenceTransformer"
