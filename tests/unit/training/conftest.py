from __future__ import annotations

import json
from pathlib import Path

import pytest

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
