"""PEFT methods by name: what is refused before a model loads, and that what is trained arrives in the merged model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import ingraft
from ingraft.errors import CheckFailed, UnusableInput
from ingraft.training import TrainingConfig, evaluate, save, train
from ingraft.training.config import LoraSettings
from ingraft.training.heads import fresh_heads
from ingraft.training.methods import PRESETS, choose_method
from ingraft.training.run_data import read_run_data
from unit.training.tiny_model import save_tiny_transformer

# Arguments that fit a model of width 32.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "boft": {"boft_block_size": 4},
    "fourierft": {"n_frequency": 50},
    "oft": {"oft_block_size": 8},
}


@pytest.fixture
def config(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        str(tiny_model), str(pairs_file), tmp_path / "adapter",
        learning_rate=1e-2, batch_size=32, max_pairs=96, holdout=0.3,
    )  # fmt: skip


@pytest.mark.parametrize("method", [*PRESETS, "loha", "lokr", "ia3", "ln_tuning", "oft", "boft", "hra", "fourierft"])
def test_from_training_to_a_merged_model(config: TrainingConfig, tmp_path: Path, method: str) -> None:
    from sentence_transformers import SentenceTransformer

    config = dataclasses.replace(config, method=method, arguments=ARGUMENTS.get(method, {}), learning_rate=0.1)
    result = train(config)
    ingraft.merge(config.output, tmp_path / "merged")
    task = read_run_data(config).task
    assert task is not None
    merged = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    # What was measured on the live model, with its own layers, is what the plain one gives.
    assert evaluate(merged, task) == pytest.approx(dict(result.after), abs=1e-6)
    base = SentenceTransformer(config.model, device="cpu")
    assert abs(merged.encode(["left1 left2"]) - base.encode(["left1 left2"])).max() > 1e-3


@pytest.mark.parametrize(("method", "alpha"), [("pissa", 16.0), ("rslora", 16)])
def test_a_start_that_changes_the_base_is_saved_for_the_base_as_it_was(
    config: TrainingConfig, method: str, alpha: float
) -> None:
    arguments = {"init_lora_weights": "olora"} if method == "rslora" else {}
    lora = LoraSettings(r=4, alpha=8, dropout=0)
    train(dataclasses.replace(config, method=method, arguments=arguments, lora=lora))
    saved = json.loads((config.output / "adapter_config.json").read_text())
    assert (saved["r"], saved["init_lora_weights"]) == (8, True)
    scale = saved["lora_alpha"] / (saved["r"] ** 0.5 if saved["use_rslora"] else saved["r"])
    assert scale == pytest.approx(8 / 4**0.5 if method == "rslora" else 8 / 4)


def test_an_adapter_that_does_not_give_what_was_trained_is_not_published(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    # As if what was saved had no effect.
    monkeypatch.setattr(save, "load_adapted", lambda folder, base, **_: SentenceTransformer(str(base), device="cpu"))
    with pytest.raises(CheckFailed, match="The saved adapter is not what was trained: embeddings differ by"):
        train(dataclasses.replace(config, method="pissa"))
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lorra"}, r"--method lorra is not known \(nearest: lora\)"),
        ({"method": "prompt-tuning"}, "Prompt tuning could not be merged after training: It adds trained tokens"),
        ({"method": "adalora"}, "ADALORA cannot be trained here: its ranks"),
        ({"method": "vera"}, "VERA cannot be trained here: its layers share tensors"),
        ({"arguments": {"rank_patern": {}}}, r"LORA has no argument rank_patern \(nearest: rank_pattern\)"),
        ({"arguments": {"r": 3}}, "--arguments names r, which is --lora.r"),
        ({"method": "dora", "arguments": {"use_dora": False}}, "names use_dora, which --method dora sets"),
        ({"method": "loha", "lora": LoraSettings(r=3)}, "are settings of LoRA; LOHA has arguments of its own"),
        ({"method": "loha", "arguments": {"target_modules": ["a"]}}, "which is --target-modules"),
        ({"method": "oft", "arguments": {"r": 8, "oft_block_size": 8}}, "PEFT refuses the arguments of OFT"),
        (
            {"method": "dora", "lora": LoraSettings(8, 32), "arguments": {"init_lora_weights": "pissa"}},
            "DoRA does not go with the start pissa",
        ),
        (
            {"lora": LoraSettings(8, 32), "arguments": {"alora_invocation_tokens": [1]}},
            "aLoRA could not be merged after training",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_loads(config: TrainingConfig, change: Any, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        choose_method(dataclasses.replace(config, **change))


def test_layers_too_narrow_for_a_method(config: TrainingConfig) -> None:
    with pytest.raises(UnusableInput, match="PEFT cannot adapt query, key, value, dense with MiSS"):
        train(dataclasses.replace(config, method="miss"))
    assert not config.output.exists()


def test_modules_to_save_are_trained_whole(config: TrainingConfig) -> None:
    with pytest.raises(UnusableInput, match=r"no module called poler \(nearest: pooler\), which --modules-to-save"):
        train(dataclasses.replace(config, modules_to_save=("poler",)))
    config = dataclasses.replace(config, modules_to_save=("word_embeddings",))
    result = train(config)
    assert result.adapter.heads == ("word_embeddings",)
    saved = json.loads((config.output / "adapter_config.json").read_text())
    assert saved["modules_to_save"] == ["word_embeddings"]


def test_a_head_that_the_base_lacks_is_found(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, BertModel

    save_tiny_transformer(tmp_path / "plain")
    head = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain", num_labels=1)
    assert fresh_heads(head, tmp_path / "plain") == ("classifier",)
    head.save_pretrained(tmp_path / "with-head")
    assert fresh_heads(head, tmp_path / "with-head") == ()
    assert fresh_heads(BertModel.from_pretrained(tmp_path / "plain"), tmp_path / "plain") == ()
    lm = AutoModelForMaskedLM.from_pretrained(tmp_path / "plain")
    assert fresh_heads(lm, tmp_path / "plain") == ("cls",)
