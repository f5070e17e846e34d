"""Two processes train together, and one of them writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.processes import Processes, rows_for_each, these_processes


def test_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert these_processes() == Processes(1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert these_processes() == Processes(4, 3)
    assert not these_processes().writes
    assert rows_for_each(64, these_processes()) == 16
    with pytest.raises(UnusableInput, match="--batch-size is 30, which 4 processes cannot share equally"):
        rows_for_each(30, these_processes())


@pytest.mark.parametrize(("name", "what"), [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")])
def test_what_splits_the_base_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, what: str) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(UnusableInput, match=f"Training with {what} is not supported"):
        these_processes()


def run(command: list[str], environment: dict[str, str]) -> str:
    """What the command prints. One that hangs is told to end, and then ends the processes that it has started."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said, error = process.communicate(timeout=120)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, error
    return said


@pytest.mark.slow
def test_two_processes_train_together_and_one_writes(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    output = tmp_path / "adapter"
    settings = {
        "--model": tiny_model, "--data": pairs_file, "--output": output, "--learning-rate": 0.01, "--batch-size": 32,
        "--checkpoints.every": 4, "--max-pairs": 256, "--holdout": 0.125, "--format": "json", "--epochs": 2,
    }  # fmt: skip
    flags = [str(part) for flag in settings.items() for part in flag]
    launcher = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = json.loads(run([*launcher, "-m", "ingraft", "train", *flags], environment))  # one has spoken
    assert result["steps"] == 14  # of 32 rows each, as with one process: 224 rows, twice
    assert result["course"]["losses"][-1] < result["course"]["losses"][0]
    assert result["after"]["nDCG@10"] > result["before"]["nDCG@10"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    adapted = SentenceTransformer(str(output), device="cpu").encode(["left1 left2"])
    assert abs(adapted - SentenceTransformer(str(tiny_model), device="cpu").encode(["left1 left2"])).max() > 1e-3
