from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingraft.training import TrainingConfig
from ingraft.training.config import LoraSettings
from unit.training.tiny_model import save_tiny_model, translations


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a two-layer BERT as a Sentence Transformers model."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pairs that the tiny model can learn from."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = (json.dumps({"query": first, "document": second}) for first, second in translations(300))
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def config(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> TrainingConfig:
    """A run that learns in seconds, without dropout."""
    return TrainingConfig(
        model=str(tiny_model),
        data=str(pairs_file),
        output=tmp_path / "adapter",
        learning_rate=1e-2,
        batch_size=32,
        lora=LoraSettings(dropout=0.0),
    )
