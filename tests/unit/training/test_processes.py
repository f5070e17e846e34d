"""Two processes train together, and one of them writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ingraft.errors import UnusableInput
from ingraft.training.processes import Processes, rows_for_each, these_processes
from unit.training.tiny_model import translations


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


def without_dropout(model: Path, folder: Path) -> Path:
    """A copy of the model whose own dropout is off, which draws other numbers in each process."""
    copy = Path(shutil.copytree(model, folder / "still"))
    config = json.loads((copy / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["MultipleNegativesRankingLoss", "CosineSimilarityLoss"])
def test_two_processes_train_as_one(tiny_model: Path, pairs_file: Path, tmp_path: Path, loss: str) -> None:
    """Two epochs, each with a last batch that is not full."""
    data, metric = pairs_file, "nDCG@10"
    if loss == "CosineSimilarityLoss":
        data, metric = tmp_path / "scores.csv", "Spearman"
        lines = [f"{a},{b},1\n{a},{c},0\n" for (a, b), (_, c) in pairwise(translations(120))]
        data.write_text("sentence1,sentence2,score\n" + "".join(lines))
    settings = {
        "--model": without_dropout(tiny_model, tmp_path), "--data": data, "--loss": loss, "--learning-rate": 0.01,
        "--batch-size": 32, "--lora.dropout": 0, "--epochs": 2, "--max-pairs": 200, "--general": "none",
        "--format": "json",
    }  # fmt: skip
    flags = [str(part) for flag in settings.items() for part in flag]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    one, two = (
        json.loads(run([sys.executable, *start, "-m", "ingraft", "train", *flags, "--output", output], environment))
        for start, output in (([], str(tmp_path / "one")), (launcher, str(tmp_path / "two")))
    )
    rows = one["data"]["training_rows"]
    assert rows % 32
    assert one["steps"] == two["steps"] == 2 * -(-rows // 32)
    assert two["course"]["losses"] == pytest.approx(one["course"]["losses"], abs=1e-4)
    assert two["course"]["losses"][0] > 1e-2
    assert two["after"][metric] == pytest.approx(one["after"][metric], abs=1e-3)
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert float((second[name] - tensor).norm()) <= 1e-3 * float(tensor.norm()), name


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
