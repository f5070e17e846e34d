"""Rerankers, sparse and multi-vector encoders: each is trained, saved, merged, and better than before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import ingraft
from ingraft.errors import UnusableInput
from ingraft.training import TrainingConfig, evaluate, train
from ingraft.training.config import LoraSettings, MiningSettings, PromptSettings
from ingraft.training.model_types import LOSSES, choose_model_type
from ingraft.training.run_data import read_run_data
from unit.training.tiny_model import save_tiny_transformer, translations


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers model without a head."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    save_tiny_transformer(folder)
    return folder


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, saved as a masked language model."""
    import torch
    from transformers import BertForMaskedLM

    folder = tmp_path_factory.mktemp("models") / "masked"
    save_tiny_transformer(folder)
    torch.manual_seed(1)  # not the numbers that the transformer was made of
    BertForMaskedLM.from_pretrained(folder).save_pretrained(folder)
    return folder


@pytest.fixture
def config(plain: Path, pairs_file: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        str(plain), str(pairs_file), tmp_path / "adapter",
        learning_rate=1e-2, batch_size=32, epochs=4, holdout=0.2, lora=LoraSettings(dropout=0),
    )  # fmt: skip


def check_merged(config: TrainingConfig, result: Any, tmp_path: Path) -> Any:
    """Merge, and find in the plain model what was measured on the live one."""
    import sentence_transformers

    ingraft.merge(config.output, tmp_path / "merged")
    model = getattr(sentence_transformers, config.model_type)(str(tmp_path / "merged"), device="cpu")
    task = read_run_data(config, model_type=config.model_type).task
    assert task is not None
    # One of 30 queries may have two documents whose scores differ by less than rounding does.
    assert evaluate(model, task) == pytest.approx(dict(result.after), abs=2e-3)
    part = len(result.losses) // 5
    assert sum(result.losses[-part:]) < sum(result.losses[:part])
    return model


def test_a_reranker_with_a_new_head(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model_type="CrossEncoder", learning_rate=4e-3, epochs=16, holdout=0.1)
    result = train(config)
    assert result.data.loss == "MultipleNegativesRankingLoss"
    assert result.adapter.heads == ("classifier",)
    assert result.general_after == {}
    assert json.loads((config.output / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    check_merged(config, result, tmp_path)
    assert result.after["nDCG@10"] > result.before["nDCG@10"]


@pytest.mark.parametrize(("column", "metric"), [("label", "AP"), ("score", "Spearman")])
def test_a_reranker_from_judged_pairs(config: TrainingConfig, tmp_path: Path, column: str, metric: str) -> None:
    good = {"right1", "right2", "right3", "right4", "right5", "right6"}  # documents with one of these are right
    lines = [f"{a},{b},{int(bool(good & set(b.split())))}\n" for a, b in translations(300)]
    (tmp_path / "rows.csv").write_text(f"query,document,{column}\n" + "".join(lines))
    data = str(tmp_path / "rows.csv")
    config = dataclasses.replace(config, model_type="CrossEncoder", data=data, learning_rate=3e-3, epochs=6)
    result = train(config)
    assert result.data.loss == "BinaryCrossEntropyLoss"
    check_merged(config, result, tmp_path)
    assert result.after[metric] > result.before[metric]


def test_a_sparse_encoder(config: TrainingConfig, masked: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model=str(masked), model_type="SparseEncoder", learning_rate=5e-3, epochs=20)
    result = train(config)
    assert result.data.loss == "SparseMultipleNegativesRankingLoss"
    assert set(result.general_after) == {"Spearman"}
    model = check_merged(config, result, tmp_path)
    assert result.after["nDCG@10"] > result.before["nDCG@10"] + 0.05
    assert model.encode(["left1"]).is_sparse


def test_a_sparse_encoder_needs_the_head_of_its_base(config: TrainingConfig) -> None:
    with pytest.raises(UnusableInput, match="without the head of a masked language model, which a SparseEncoder needs"):
        train(dataclasses.replace(config, model_type="SparseEncoder"))
    assert not config.output.exists()


def test_a_multi_vector_encoder(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model_type="MultiVectorEncoder", learning_rate=3e-3)
    result = train(config)
    assert result.data.loss == "MultiVectorMultipleNegativesRankingLoss"
    assert result.general_after == {}
    check_merged(config, result, tmp_path)
    assert result.after["nDCG@10"] > result.before["nDCG@10"]


def test_the_type_is_that_of_the_base(config: TrainingConfig, plain: Path, tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    assert choose_model_type(config, plain) == "SentenceTransformer"
    BertForSequenceClassification.from_pretrained(plain, num_labels=1).save_pretrained(tmp_path / "classifier")
    assert choose_model_type(config, tmp_path / "classifier") == "CrossEncoder"
    told = dataclasses.replace(config, model_type="MultiVectorEncoder")
    assert choose_model_type(told, tmp_path / "classifier") == "MultiVectorEncoder"


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("CrossEncoder", {"matryoshka": (8,)}, "--matryoshka is nothing that a CrossEncoder has"),
        (
            "CrossEncoder",
            {"prompts": PromptSettings(query="q: ")},
            r"--prompts.query is nothing that a CrossEncoder has",
        ),
        (
            "SparseEncoder",
            {"mining": MiningSettings(negatives=1)},
            r"--mining.negatives is nothing that a SparseEncoder",
        ),
        ("SparseEncoder", {"mini_batch_size": 4}, "for losses that can be cached, and there is none for pairs"),
        ("CrossEncoder", {"loss": "CoSENTLoss"}, "--loss CoSENTLoss is not known for pairs"),
    ],
)
def test_settings_of_another_type(config: TrainingConfig, model_type: Any, change: Any, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        train(dataclasses.replace(config, model_type=model_type, **change))


def test_rows_of_another_type(config: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("sentence1,sentence2,score\na,b,3\nc,d,1\ne,f,0\n")
    scores = dataclasses.replace(config, data=str(tmp_path / "rows.csv"))
    with pytest.raises(UnusableInput, match="A MultiVectorEncoder is not trained on scored pairs; expected pairs"):
        read_run_data(scores, model_type="MultiVectorEncoder")
    with pytest.raises(UnusableInput, match="needs scores from 0 to 1; the data have 0 to 3"):
        read_run_data(scores, model_type="CrossEncoder")


def test_the_table_names_losses_that_exist() -> None:
    from sentence_transformers.cross_encoder import losses as cross
    from sentence_transformers.multi_vector_encoder import losses as multi
    from sentence_transformers.sparse_encoder import losses as sparse

    libraries = {"CrossEncoder": cross, "SparseEncoder": sparse, "MultiVectorEncoder": multi}
    for model_type, library in libraries.items():
        assert all(hasattr(library, name) for names in LOSSES[model_type].values() for name in names)
