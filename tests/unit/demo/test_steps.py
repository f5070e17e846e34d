"""The demo's pipeline from end to end, on a two-layer model and a catalogue of its words."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from ingraft.demo import steps
from ingraft.demo.config import DemoConfig
from ingraft.demo.data import DemoData, Diagnosis
from ingraft.demo.steps import Command, run_demo
from ingraft.errors import UnusableInput
from ingraft.pipeline import MergeResult
from ingraft.training.facts import Evaluated
from ingraft.verification.report import VerificationReport
from unit.training.tiny_model import save_tiny_model


def small_catalogue() -> tuple[Diagnosis, ...]:
    """200 categories with one code each, whose title has other words for the same numbers as its three terms."""
    rng = random.Random(0)
    diagnoses = []
    for category in range(200):
        numbers = rng.sample(range(24), 4)
        terms = (" ".join(f"left{n}" for n in rng.sample(numbers, 3)) for _ in range(3))
        title = " ".join(f"right{n}" for n in numbers)
        diagnoses.append(Diagnosis(f"{category:03}.0", title, tuple(dict.fromkeys(terms))))
    return tuple(diagnoses)


@pytest.fixture
def small_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path / "package" / "model")
    monkeypatch.setattr(steps, "model_directory", lambda: model)
    monkeypatch.setattr(steps, "catalogue", small_catalogue)
    original = steps.diagnosis_data
    monkeypatch.setattr(
        steps, "diagnosis_data", lambda *a, **settings: original(*a, **settings, held_out=60, titles=100)
    )
    monkeypatch.setattr(steps, "LEARNING_RATE", 1e-2)
    monkeypatch.setattr(steps, "BATCH_SIZE", 32)


@pytest.mark.usefixtures("small_demo")
def test_the_whole_way(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    events: list[Any] = []
    result = run_demo(DemoConfig(output=output, pairs=400), observe=events.append)

    base, adapted, merged = (result.metrics[name] for name in ("base", "adapted", "merged"))
    assert adapted["nDCG@10"] > base["nDCG@10"] + 0.1
    assert merged == pytest.approx(adapted, abs=1e-9)
    assert 0 <= result.parity < 1e-6
    assert result.report.passed
    assert {path.name for path in output.iterdir()} == {steps.MODEL, "pairs.jsonl", "adapter", "merged"}
    assert not list((output / "merged").rglob("adapter_*"))
    json.dumps(result.to_dict(), default=str)

    kinds = [type(event) for event in events]
    assert kinds[0] is DemoData
    assert kinds.index(MergeResult) < kinds.index(VerificationReport)
    measured = [event.model for event in events if isinstance(event, Evaluated)]
    assert [model for model in measured if "in general" not in model] == ["base", "adapted", "merged"]
    commands = [event.text.split()[1] for event in events if isinstance(event, Command)]
    assert commands == ["train", "merge", "verify"]


@pytest.mark.usefixtures("small_demo")
def test_an_output_in_use_is_refused_before_anything_happens(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    with pytest.raises(UnusableInput, match="is not empty"):
        run_demo(DemoConfig(output=output, pairs=400))
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("small_demo")
@pytest.mark.parametrize("pairs", [1, -5])
def test_too_few_pairs_are_refused_before_anything_happens(pairs: int, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=f"--pairs is {pairs}; expected 2 or more"):
        run_demo(DemoConfig(output=tmp_path / "demo", pairs=pairs))
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("small_demo")
def test_a_missing_package_is_named_before_anything_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UnusableInput, match="Training needs the package peft, which is not installed"):
        run_demo(DemoConfig(output=tmp_path / "demo", pairs=400))
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("small_demo")
def test_what_is_prepared(tmp_path: Path) -> None:
    output = tmp_path / "demo"
    output.mkdir()
    data = DemoData((("Pig-bel", "Foodborne “intoxication”"), ("a", "b")), {}, {}, {})
    base, pairs = steps.prepare(output, data)
    assert (base / "model.safetensors").read_bytes() == (steps.model_directory() / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    assert rows == [{"anchor": "Pig-bel", "positive": "Foodborne “intoxication”"}, {"anchor": "a", "positive": "b"}]
    (base / "stale").touch()
    steps.prepare(output, data)
    assert not (base / "stale").exists()
