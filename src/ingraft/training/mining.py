"""Hard negatives: for each query the texts that the base model finds most similar and that are no answers to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ingraft.errors import UnusableInput, first_line
from ingraft.training.config import MiningSettings
from ingraft.training.data import TrainingData

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def check_minable(data: TrainingData, mining: MiningSettings) -> None:
    """UnusableInput when negatives are wanted for rows that cannot have any, or have some."""
    if mining.negatives and (data.kind != "pairs" or len(data.columns) > 2):
        found = data.kind if data.kind != "pairs" else "pairs with negatives"
        raise UnusableInput(f"--mining.negatives needs pairs without negatives; {data.path} holds {found}.")


def mined(model: SentenceTransformer, data: TrainingData, mining: MiningSettings, *, seed: int) -> TrainingData:
    """`data` with mined negatives. Rows for which too few were found are left out, and a note says how many.

    By `mine_hard_negatives` of Sentence Transformers, among the positives of all rows. UnusableInput when none are
    found.
    """
    import random

    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    anchors, positives = data.columns["anchor"], data.columns["positive"]
    prompts: dict[str, Any] = {
        name: model.prompts.get(role) or None
        for name, role in (("query_prompt", "query"), ("corpus_prompt", "document"))
    }
    random.seed(seed)
    try:
        found = mine_hard_negatives(
            Dataset.from_dict({"anchor": list(anchors), "positive": list(positives)}),
            model,
            anchor_column_name="anchor",
            positive_column_name="positive",
            num_negatives=mining.negatives,
            range_min=mining.range_min,
            range_max=mining.range_max,
            relative_margin=mining.relative_margin,
            sampling_strategy=mining.sampling,
            output_format="n-tuple",
            verbose=False,
            **prompts,
        ).to_dict()
    except ValueError as error:  # more are wanted than there are texts
        raise UnusableInput(f"Mining hard negatives failed: {first_line(error)}") from None
    row_of = {pair: number for number, pair in enumerate(zip(anchors, positives, strict=True))}
    kept = [row_of[pair] for pair in zip(found["anchor"], found["positive"], strict=True)]
    if len(kept) < 2:
        raise UnusableInput(
            f"No row of {data.path} has {mining.negatives} hard negatives among the other rows' positives.",
            hint="Lower --mining.negatives or --mining.range-min, or raise --mining.range-max.",
        )
    negatives = [column for column in found if column.startswith("negative")]
    rows = data.take(kept)
    columns = {f"negative_{n + 1}" if n else "negative": found[name] for n, name in enumerate(negatives)}
    lost = len(data) - len(kept)
    note = f"{mining.negatives} hard negatives mined for each row"
    if lost:
        note += f", {lost:,} rows left out for which there are fewer"
    return replace(rows, columns={**rows.columns, **columns}, notes=(*rows.notes, note))
