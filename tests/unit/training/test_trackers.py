"""What a run sends to trackers: read back from what TensorBoard wrote."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ingraft.cli.app import main
from ingraft.errors import UnusableInput
from ingraft.training import TrainingConfig, stages, train
from ingraft.training.trackers import check_trackers, log_folder


@pytest.fixture
def config(config: TrainingConfig) -> TrainingConfig:
    return dataclasses.replace(config, batch_size=16, max_pairs=64)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Tag → step → value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_losses_and_figures_are_in_the_event_file(config: TrainingConfig, tmp_path: Path) -> None:
    result = train(dataclasses.replace(config, report_to=("tensorboard",)))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "adapter-logs"]
    assert result.logs == tmp_path / "adapter-logs"
    assert not list(config.output.rglob("events.out.tfevents*"))
    (folder,) = result.logs.iterdir()
    written = scalars(folder)
    assert list(written["train/loss"].values()) == pytest.approx(result.losses, rel=1e-6)
    assert max(written["train/loss"]) == result.steps
    assert max(written["train/learning_rate"].values()) == pytest.approx(1e-2)
    for name, before, after in (
        ("test/nDCG@10", result.before["nDCG@10"], result.after["nDCG@10"]),
        ("test/accuracy@1", result.before["accuracy@1"], result.after["accuracy@1"]),
        ("test/general_Spearman", result.general_before["Spearman"], result.general_after["Spearman"]),
    ):
        assert written[name] == pytest.approx({0: before, result.steps: after}, rel=1e-6)


def test_nothing_is_sent_anywhere_unasked(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where an installed tracker is told to by the environment."""
    from sentence_transformers import SentenceTransformerTrainer

    seen: list[str] = []
    original = SentenceTransformerTrainer.train

    def spy(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.extend(type(callback).__name__ for callback in self.callback_handler.callbacks)
        return original(self, *arguments, **options)

    monkeypatch.setattr(SentenceTransformerTrainer, "train", spy)
    monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", "https://127.0.0.1:1")
    assert train(config).logs is None
    assert "ReportSteps" in seen
    assert not {"TensorBoardCallback", "WandbCallback", "TrackioCallback", "KubeflowCallback", "Follow"} & set(seen)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_tracker_that_is_not_installed_is_told_before_the_model_is_loaded(
    config: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "ingraft.training.trackers.find_spec", lambda name: None if name in ("trackio", "wandb") else find(name)
    )
    monkeypatch.setattr(stages, "load_base", lambda *_: pytest.fail("the model was loaded"))
    arguments = ["--model", config.model, "--data", config.data, "--output", str(config.output)]
    assert main(["train", *arguments, "--report-to", "wandb"]) == 2
    error = capfd.readouterr().err
    assert error == "error: --report-to names wandb, which is not installed.\n  Run: pip install wandb\n"
    with pytest.raises(UnusableInput, match="names trackio, wandb, which are not installed"):
        check_trackers(("tensorboard", "trackio", "wandb"))
    assert main(["train", *arguments, "--report-to", "tensorbord"]) == 2
    assert "--report-to is 'tensorbord'; expected tensorboard, trackio, wandb (nearest: tensorboard)" in (
        capfd.readouterr().err
    )
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_cannot_begin_is_told_in_one_line(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers.integrations import TensorBoardCallback

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room\nfor logs")

    monkeypatch.setattr(TensorBoardCallback, "on_train_begin", fail)
    with pytest.raises(UnusableInput, match=r"^tensorboard could not begin: no room Mend that"):
        train(dataclasses.replace(config, report_to=("tensorboard",)))
    assert not config.output.exists()


def test_a_resumed_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    first = log_folder(tmp_path / "adapter", resume=True)
    assert first.parent == tmp_path / "adapter-logs"
    for name in ("2026-01-01_00-00-00", "2026-01-02_00-00-00"):
        (first.parent / name).mkdir(parents=True)
    assert log_folder(tmp_path / "adapter", resume=True).name == "2026-01-02_00-00-00"
    assert log_folder(tmp_path / "adapter").name > "2026-01-02_00-00-00"


def test_what_is_printed_stays_json(config: TrainingConfig, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", config.model, "--data", config.data, "--output", str(config.output), "--max-pairs", "64"]
    flags = ["--batch-size", "16", "--report-to", "tensorboard", "--format", "json"]
    assert main(["train", *arguments, *flags]) == 0
    printed, words = capfd.readouterr()
    assert json.loads(printed)["logs"] == f"{config.output}-logs"
    assert words == ""
