"""Which loss fits which rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.training import train
from ingraft.training.config import LoraSettings, TrainingConfig
from ingraft.training.losses import check_loss_rows, loss_name
from ingraft.training.model_types import LOSSES as BY_TYPE
from unit.training.tiny_model import translations

LOSSES = BY_TYPE["SentenceTransformer"]


def test_the_format_decides() -> None:
    assert [loss_name(kind) for kind in LOSSES] == [
        "MultipleNegativesRankingLoss", "CoSENTLoss", "OnlineContrastiveLoss", "BatchAllTripletLoss",
    ]  # fmt: skip
    assert loss_name("pairs", cached=True) == "CachedMultipleNegativesRankingLoss"
    assert loss_name("scored pairs", "anglELoss") == "AnglELoss"


def test_a_loss_that_does_not_fit() -> None:
    with pytest.raises(UnusableInput, match="CoSENTLoss does not fit pairs") as error:
        loss_name("pairs", "CoSENTLoss")
    assert "MultipleNegativesRankingLoss" in error.value.hint
    with pytest.raises(UnusableInput, match=r"CoSENTLos is not known for scored pairs \(nearest: CoSENTLoss\)"):
        loss_name("scored pairs", "CoSENTLos")
    with pytest.raises(UnusableInput, match="TripletLoss needs one negative for each row; the data have 0"):
        check_loss_rows("TripletLoss", {"anchor": [], "positive": []})


def write_rows(folder: Path, kind: str) -> Path:
    """40 rows of `kind` as CSV, with a negative in pairs."""
    pairs = translations(40)
    others = [second for _, second in pairs[1:] + pairs[:1]]
    rows = {
        "pairs": ["query,document,negative", *(f"{a},{b},{c}" for (a, b), c in zip(pairs, others, strict=True))],
        "scored pairs": ["sentence1,sentence2,score", *(f"{a},{b},{n % 4 / 3}" for n, (a, b) in enumerate(pairs))],
        "labelled pairs": ["sentence1,sentence2,label", *(f"{a},{b},{n % 2}" for n, (a, b) in enumerate(pairs))],
        "labelled texts": ["text,label", *(f"{a},class {n % 4}" for n, (a, _) in enumerate(pairs))],
    }
    path = folder / "rows.csv"
    path.write_text("\n".join(rows[kind]) + "\n")
    return path


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        str(tiny_model), "", tmp_path / "adapter", learning_rate=1e-2, batch_size=16, lora=LoraSettings(r=2, dropout=0)
    )


@pytest.mark.parametrize(("kind", "loss"), [(kind, loss) for kind, losses in LOSSES.items() for loss in losses])
def test_every_loss_of_the_table_trains(config: TrainingConfig, tmp_path: Path, kind: str, loss: str) -> None:
    result = train(dataclasses.replace(config, data=str(write_rows(tmp_path, kind)), loss=loss, holdout=0))
    assert (result.data.kind, result.data.loss) == (kind, loss)
    assert result.losses


def test_cached_and_at_several_sizes(config: TrainingConfig, tmp_path: Path) -> None:
    data = str(write_rows(tmp_path, "pairs"))
    changes: dict[str, Any] = {
        "data": data,
        "mini_batch_size": 4,
        "matryoshka": (8, 16),
        "loss_arguments": {"scale": 10.0},
    }
    result = train(dataclasses.replace(config, holdout=0, **changes))
    assert (result.data.loss, result.data.matryoshka) == ("CachedMultipleNegativesRankingLoss", (8, 16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss_arguments": {"scala": 3}}, r"has no argument scala \(nearest: scale\)"),
        ({"matryoshka": (64,)}, "--matryoshka names 64; the model's embeddings have 32 dimensions"),
    ],
)
def test_arguments_that_do_not_fit(
    config: TrainingConfig, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UnusableInput, match=message):
        train(dataclasses.replace(config, data=str(write_rows(tmp_path, "pairs")), holdout=0, **change))  # type: ignore[arg-type]
    assert not config.output.exists()
