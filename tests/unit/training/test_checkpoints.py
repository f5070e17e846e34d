"""A run that is stopped goes on as if nothing had been; a best checkpoint is what it measured."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.files import to_json
from ingraft.training import TrainingConfig, checkpoints, fit, stages, train
from ingraft.training.checkpoints import _compared, last_checkpoint, open_run, run_folder
from ingraft.training.config import CheckpointSettings, LoraSettings
from ingraft.training.facts import Restored, Resumed, Step
from ingraft.training.run_data import read_run_data
from unit.training.tiny_model import save_tiny_model


@pytest.fixture
def config(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> TrainingConfig:
    """Two epochs of 6 steps with a checkpoint after each second one."""
    return TrainingConfig(
        str(tiny_model), str(pairs_file), tmp_path / "adapter",
        learning_rate=1e-2, batch_size=32, max_pairs=192, holdout=0, epochs=2,
        lora=LoraSettings(dropout=0), checkpoints=CheckpointSettings(every=2),
    )  # fmt: skip


def stop_at(step: int) -> Any:
    """An observer that stops a run as Ctrl-C does."""

    def observe(event: Any) -> None:
        if isinstance(event, Step) and event.done == step:
            raise KeyboardInterrupt

    return observe


def stopped(config: TrainingConfig, step: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(config, observe=stop_at(step))
    assert not config.output.exists()
    return run_folder(config.output)


@pytest.mark.parametrize(
    ("step", "change"),
    [
        (5, {}),  # in the first epoch
        (9, {"adapter_name": "icd"}),  # in the second
        (9, {"lora": LoraSettings(dropout=0.2)}),
        (5, {"method": "pissa"}),
    ],
)
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    config: TrainingConfig, tmp_path: Path, step: int, change: dict[str, Any]
) -> None:
    config = dataclasses.replace(config, **change)
    whole = train(dataclasses.replace(config, output=tmp_path / "whole"))
    folder = stopped(config, step)
    newest = folder / f"checkpoint-{step // 2 * 2}"
    assert last_checkpoint(folder) == newest

    events: list[Any] = []
    resumed = train(dataclasses.replace(config, resume=True), observe=events.append)
    assert [event.checkpoint for event in events if isinstance(event, Resumed)] == [newest]
    steps = [event.done for event in events if isinstance(event, Step)]
    assert steps == list(range(step // 2 * 2, 13))
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 12
    weights = [(output / "adapter_model.safetensors").read_bytes() for output in (tmp_path / "whole", config.output)]
    assert weights[0] == weights[1]
    assert not folder.exists()


@pytest.mark.parametrize("text", ["{}", '{"config": []}'])
def test_a_run_that_does_not_say_what_it_was_is_not_resumed(config: TrainingConfig, text: str) -> None:
    config = dataclasses.replace(config, resume=True)
    folder = run_folder(config.output)
    folder.mkdir()
    (folder / "run.json").write_text(text)
    with pytest.raises(UnusableInput, match=r"run\.json says nothing of the setting"):
        open_run(config, files={}, fingerprint="")


def test_a_dense_module_is_resumed_too(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model=str(save_tiny_model(tmp_path / "dense-model", dense=True)))
    whole = train(dataclasses.replace(config, output=tmp_path / "whole"))
    stopped(config, 5)
    assert train(dataclasses.replace(config, resume=True)).losses == whole.losses
    files = [(output / "2_Dense" / "model.safetensors").read_bytes() for output in (tmp_path / "whole", config.output)]
    assert files[0] == files[1]


def test_a_checkpoint_is_an_adapter_without_the_users_rows(config: TrainingConfig) -> None:
    folder = stopped(config, 11)
    assert sorted(path.name for path in folder.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]
    names = {path.name for path in (folder / "checkpoint-10").rglob("*")}
    assert {"adapter_model.safetensors", "adapter_config.json", "modules.json", "optimizer.pt"} < names
    assert not names & {"model.safetensors", "README.md", "training_args.bin"}


def nearness_to_the_base(model: Any, task: Any) -> dict[str, float]:
    """A figure that every step makes worse: as of a model that is trained for too long."""
    weights = [parameter for name, parameter in model.named_parameters() if ".lora_B." in name]
    return {"nDCG@10": -sum(float(weight.detach().norm()) for weight in weights)}


def test_the_best_checkpoint_is_taken_and_measured_again(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "evaluate", nearness_to_the_base)
    best = CheckpointSettings(every=2, keep=1, best=True)
    config = dataclasses.replace(config, holdout=0.2, adapter_name="icd", checkpoints=best, general="none")
    events: list[Any] = []
    result = train(config, observe=events.append)
    [restored] = [event for event in events if isinstance(event, Restored)]
    assert (restored.step, restored.metric) == (2, "nDCG@10")
    assert result.steps > 2
    assert result.after["nDCG@10"] == restored.value < 0  # (a figure of the weights, on whatever rows)
    record = json.loads((config.output / "ingraft_training.json").read_text())
    assert record["best"] == {"step": 2, "metric": "nDCG@10", "value": restored.value}


def test_a_checkpoint_that_measures_differently_is_not_published(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "evaluate", nearness_to_the_base)
    monkeypatch.setattr(fit, "load_checkpoint", lambda *_: None)  # as if nothing was restored
    best = CheckpointSettings(every=2, best=True)
    with pytest.raises(CheckFailed, match=r"checkpoint-2, measured nDCG@10 -\d.* while training and -\d"):
        train(dataclasses.replace(config, holdout=0.2, checkpoints=best, general="none"))
    assert not config.output.exists()


def test_the_best_needs_something_to_choose_by(config: TrainingConfig) -> None:
    with pytest.raises(UnusableInput, match=r"--checkpoints.best needs rows to choose by, and 2 rows to train on"):
        train(dataclasses.replace(config, max_pairs=2, checkpoints=CheckpointSettings(best=True)))


def texts_of(task: Any) -> set[str]:
    return {*task.queries.values(), *(task.corpus[name] for found in task.relevant.values() for name in found)}


@pytest.mark.parametrize("grouped", [False, True])
def test_the_best_is_chosen_by_rows_that_are_neither_trained_on_nor_reported(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, grouped: bool
) -> None:
    """And what is reported comes from the held-out ones."""
    config = dataclasses.replace(
        config, holdout=0.2, checkpoints=CheckpointSettings(every=2, best=True), general="none", epochs=1
    )
    group_of: dict[str, int] = {}
    if grouped:
        rows = [json.loads(line) for line in Path(config.data).read_text().splitlines()]
        path = tmp_path / "grouped.jsonl"
        path.write_text("\n".join(json.dumps(row | {"group": f"g{n // 5}"}) for n, row in enumerate(rows)))
        config = dataclasses.replace(config, data=str(path))
        group_of = {row["query"]: n // 5 for n, row in enumerate(rows)}
    prepared = read_run_data(config)
    rows_trained = prepared.datasets[0].rows
    trained = {*rows_trained.columns["anchor"], *rows_trained.columns["positive"]}
    chosen_by, reported = texts_of(prepared.choice), texts_of(prepared.task)
    assert trained
    assert chosen_by
    assert reported
    assert not trained & chosen_by
    assert not trained & reported
    assert not chosen_by & reported
    assert not reported & set(prepared.choice.corpus.values())  # not even as a wrong answer
    parts = [{group_of[text] for text in part if text in group_of} for part in (trained, chosen_by, reported)]
    assert all(not one & other for n, one in enumerate(parts) for other in parts[n + 1 :])
    facts = prepared.facts[0]
    assert facts.training_rows == len(rows_trained)
    assert facts.training_rows + facts.validation_rows + facts.held_out_rows == 192
    assert facts.validation_rows == pytest.approx(0.2 * (192 - facts.held_out_rows), abs=4)

    # Each figure says what it was measured on.
    measured_on: list[set[str]] = []
    real = stages.evaluate

    def spy(model: Any, task: Any) -> dict[str, float]:
        measured_on.append(texts_of(task))
        return dict(real(model, task)) | {"queries": float(len(task.queries))}

    monkeypatch.setattr(stages, "evaluate", spy)
    result = train(config)
    assert measured_on[0] == measured_on[-1] == reported
    assert all(texts == chosen_by for texts in measured_on[1:-1])
    assert len(measured_on) > 4
    assert result.after["queries"] == len(prepared.task.queries) == facts.held_out_rows
    assert {metrics["queries"] for metrics in result.course.measured.values()} == {float(len(prepared.choice.queries))}


def test_rows_are_set_aside_without_any_held_out(config: TrainingConfig) -> None:
    prepared = read_run_data(dataclasses.replace(config, holdout=0, checkpoints=CheckpointSettings(best=True)))
    assert prepared.task is None
    assert prepared.facts[0].validation_rows == 19
    assert read_run_data(dataclasses.replace(config, holdout=0)).facts[0].validation_rows == 0


def test_a_full_disk_leaves_the_last_checkpoint(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([10**12, 10**12, 1000])
    monkeypatch.setattr(checkpoints, "free_bytes", lambda folder: next(free))
    with pytest.raises(UnusableInput, match=r"is too small for another checkpoint: .* MB are needed, 1 kB are free"):
        train(config)
    folder = run_folder(config.output)
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    monkeypatch.undo()
    assert train(dataclasses.replace(config, resume=True)).steps == 12


def test_a_checkpoint_that_was_not_finished_is_passed_over(config: TrainingConfig) -> None:
    folder = stopped(config, 7)
    state = folder / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    assert last_checkpoint(folder) == folder / "checkpoint-4"
    (folder / "checkpoint-4" / "optimizer.pt").unlink()
    assert last_checkpoint(folder) is None


def test_checkpoints_in_the_way(config: TrainingConfig) -> None:
    folder = stopped(config, 3)
    with pytest.raises(UnusableInput, match="holds the checkpoints of a run that was stopped") as error:
        train(config)
    assert "--resume" in error.value.hint
    train(dataclasses.replace(config, overwrite=True))
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(UnusableInput, match="is in the way and holds no checkpoints"):
        train(dataclasses.replace(config, overwrite=True))
    assert (folder / "mine.txt").exists()


def test_another_run_is_not_resumed(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, data=str(shutil.copy(config.data, tmp_path / "rows.jsonl")))
    with pytest.raises(UnusableInput, match="holds no run to resume"):
        train(dataclasses.replace(config, resume=True))
    stopped(config, 3)
    with pytest.raises(UnusableInput, match=r"another state of the setting checkpoints.best: False then, True now"):
        train(dataclasses.replace(config, resume=True, checkpoints=CheckpointSettings(every=2, best=True)))
    with pytest.raises(UnusableInput, match=r"another state of the setting learning_rate: 0.01 then, 0.02 now"):
        train(dataclasses.replace(config, resume=True, learning_rate=0.02))
    rows = (tmp_path / "rows.jsonl").read_text().replace("left1", "left2")
    (tmp_path / "rows.jsonl").write_text(rows)
    with pytest.raises(UnusableInput, match=r"another state of the data .*rows.jsonl"):
        train(dataclasses.replace(config, resume=True))


@pytest.mark.parametrize("content", ["{}", '{"config": []}', '{"config": {}, "files": 3}'])
def test_a_record_that_is_none_is_not_resumed(content: str, tmp_path: Path) -> None:
    (tmp_path / "out-checkpoints").mkdir()
    (tmp_path / "out-checkpoints" / "run.json").write_text(content)
    config = TrainingConfig("a", "b", tmp_path / "out", resume=True)
    if "files" in content:
        content = json.dumps({**json.loads(content), "config": json.loads(to_json(_compared(config)))})
        (tmp_path / "out-checkpoints" / "run.json").write_text(content)

    with pytest.raises(UnusableInput, match=r"run\.json says nothing of the (setting|data)"):
        open_run(config, files={}, fingerprint="")


def test_short_runs_write_none(config: TrainingConfig) -> None:
    config = dataclasses.replace(config, checkpoints=CheckpointSettings(every=500))
    with pytest.raises(KeyboardInterrupt):
        train(config, observe=stop_at(5))
    assert not run_folder(config.output).exists()
