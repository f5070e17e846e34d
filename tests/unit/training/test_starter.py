"""A starter config is one that works, and says what it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.config import TrainingConfig
from ingraft.training.config_file import resolve
from ingraft.training.keys import keys_of
from ingraft.training.starter import MODEL, starter, write_starter


def test_it_is_a_config_that_names_every_setting(pairs_file: Path, tmp_path: Path) -> None:
    found = starter(str(pairs_file))
    write_starter(found, tmp_path / "train.yaml")
    assert resolve(tmp_path / "train.yaml", {}) == TrainingConfig(
        MODEL, str(pairs_file), Path("adapter"), epochs=3, batch_size=32
    )
    for key in keys_of(TrainingConfig):
        assert f"{key.path[-1]}: " in found.text
        assert key.doc in found.text
    assert "300 rows of query, document" in found.text
    assert found.task.startswith("retrieval")


def test_every_line_can_be_taken_in(pairs_file: Path, tmp_path: Path) -> None:
    """Each default that stands in a comment is what the setting has anyway."""
    names = {key.path[0] for key in keys_of(TrainingConfig)}
    lines = starter(str(pairs_file)).text.splitlines()
    taken = [line.removeprefix("# ") if line[2:].split(":")[0] in names else line for line in lines]
    (tmp_path / "all.yaml").write_text("\n".join(taken))
    assert resolve(tmp_path / "all.yaml", {}).learning_rate == TrainingConfig.learning_rate


def test_scores_are_another_task(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("sentence1,sentence2,score\na,b,0.5\nc,d,1\ne,,1\n")
    found = starter(str(tmp_path / "scores.csv"))
    assert found.task.startswith("similarity")
    assert "CoSENTLoss" in found.text
    assert "1 of 3 rows left out: line 4: sentence2 is empty" in found.text


def test_nothing_is_replaced_unasked(pairs_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("mine")
    with pytest.raises(UnusableInput, match="exists"):
        write_starter(starter(str(pairs_file)), path)
    assert path.read_text() == "mine"
    write_starter(starter(str(pairs_file)), path, overwrite=True)
    assert path.read_text() != "mine"
