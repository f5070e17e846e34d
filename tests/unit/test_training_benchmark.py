"""`make bench-training`: what it measures, and the page that it writes, without measuring anything."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = {
    "date": "2026-11-24", "processor": "A processor", "cores": 2, "memory": 8e9, "system": "Linux 6",
    "file_system": "ext4",
    "versions": {"Python": "3.11"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def part(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


def run(contender: str, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "part": "methods", "contender": contender, "pairs": 500, "seed": 0, "rank": 8, "rate": 1e-3, "seconds": 50.0,
        "cpu": 40.0, "peak": 700e6, "others": 0.1, "train": 30.0, "loss": 0.5, "trainable": 1, "parameters": 200,
        "nbytes": 1_336_000, "nDCG@10": 0.6, "accuracy@1": 0.5,
    }  # fmt: skip
    return {**known, **changes}


def cells(page: str, begins: str) -> list[str]:
    [line] = [line for line in page.splitlines() if line.startswith(f"| {begins} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_means_with_their_spread() -> None:
    table = part("training_table")
    runs = [run(table.BASE, **{"nDCG@10": 0.55})]
    runs += [run(table.INGRAFT, seed=seed, train=30.0 + seed, **{"nDCG@10": 0.6 + seed / 100}) for seed in range(3)]
    page = table.page(runs, MACHINE)
    assert cells(page, table.BASE) == [table.BASE, "", "0.5500", "0.5000", "", "", "", "", ""]
    assert cells(page, table.INGRAFT) == [
        table.INGRAFT, "3", "0.6100 (0.6000–0.6200)", "0.5000 (0.5000–0.5000)", "0.5 %", "62.0 (60.0–64.0)",
        "100.0 (100.0–100.0)", "700 MB", "1.34 MB",
    ]  # fmt: skip
    assert "2026-11-24 · A processor, 2 cores, 8 GB" in page
    assert table.DORA not in page
    assert "bare script" not in page  # nothing is said of what was not measured


def test_times_are_those_of_runs_that_nobody_disturbed() -> None:
    table = part("training_table")
    runs = [run(table.INGRAFT), run(table.INGRAFT, seed=1, seconds=90.0, train=80.0, others=0.9)]
    assert cells(table.page(runs, MACHINE), table.INGRAFT)[5:7] == ["60.0", "100.0"]
    runs[0]["others"] = 0.9
    assert cells(table.page(runs, MACHINE), table.INGRAFT)[6] == "disturbed"


def test_full_fine_tuning_stands_there_with_the_better_rate() -> None:
    table = part("training_table")
    runs = [run(table.FULL, rate=5e-5, **{"nDCG@10": 0.7}), run(table.FULL, rate=2e-4, **{"nDCG@10": 0.8})]
    assert table.better_rate(runs) == 2e-4
    page = table.page(runs, MACHINE)
    assert cells(page, table.FULL)[2] == "0.8000"
    assert "learning rate 0.0002, the better of two" in page
    assert "0.7000 at 5e-05, 0.8000 at 0.0002" in page
    assert table.better_rate([]) is None


def test_the_overhead_is_that_of_the_same_round() -> None:
    table = part("training_table")
    runs = [run(table.INGRAFT, seed=n, seconds=102.0 + n, loss=0.5) for n in range(3)]
    runs += [run(table.BARE, seed=n, seconds=100.0, loss=0.5) for n in range(3)]
    page = table.page(runs, MACHINE)
    assert cells(page, "1")[1] == "102.0 s / 100.0 s = 1.020"
    assert cells(page, "median") == ["median", "+3.0 %", "+0.0 %", "+0.0 %", "+4.3 %"]
    assert "the same arithmetic" in page
    runs[0]["loss"] = 0.4
    assert "the same arithmetic" not in table.page(runs, MACHINE)


def test_a_disturbed_round_says_nothing_of_the_overhead() -> None:
    table = part("training_table")
    runs = [run(table.INGRAFT, others=1.7), run(table.BARE), run(table.INGRAFT, seed=1), run(table.BARE, seed=1)]
    assert "\n| 2 |" not in table.page(runs, MACHINE)
    page = table.page(runs[:2], MACHINE)
    assert "Not known yet" in page
    assert "| round |" not in page


def test_the_best_of_a_grid_s_row_is_marked() -> None:
    table = part("training_table")
    runs = [
        run(table.INGRAFT, part="rates", pairs=1_000, rank=rank, rate=rate, **{"nDCG@10": 0.5 + rank * rate})
        for rank in (4, 8)
        for rate in (1e-3, 2e-3)
    ]
    runs.append(run(table.INGRAFT, part="rates", pairs=300, rate=1e-3, **{"nDCG@10": 0.3}))
    page = table.page(runs, MACHINE)
    assert cells(page, "rank") == ["rank", "0.001", "0.002"]
    assert cells(page, "4") == ["4", "0.5040", "**0.5080**"]
    assert cells(page, "300") == ["300", "**0.3000**", ""]
    assert cells(page, "1,000") == ["1,000", "0.5080", "**0.5160**"]


def test_a_run_that_was_cut_short_goes_on() -> None:
    """Every trial comes once; full fine-tuning is tried at two rates, then goes on with the better."""
    training = part("training")
    done: list[dict[str, Any]] = []
    while trial := next(training.trials(3, done), None):
        done.append({**vars(trial), "nDCG@10": trial.rate})
    full = [(one["seed"], one["rate"]) for one in done if one["contender"] == training.FULL]
    assert sorted(full) == [(0, 5e-5), (0, 2e-4), (1, 2e-4), (2, 2e-4)]
    assert sum(one["contender"] == training.INGRAFT and one["part"] == "methods" for one in done) == 3
    assert {(one["rank"], one["rate"]) for one in done if one["part"] == "rates"} >= {(4, 5e-4), (16, 4e-3)}
    firsts = [[one["contender"] for one in done if one["seed"] == seed and one["part"] == "methods"] for seed in (1, 2)]
    assert firsts[0][0] != firsts[1][0]


def test_both_sides_of_the_overhead_are_told_the_same(tmp_path: Path) -> None:
    training = part("training")
    place = training.Place(tmp_path)
    ours, bare = (
        training._command(training.Trial("methods", name, seed=2), place, tmp_path / "output")
        for name in (training.INGRAFT, training.BARE)
    )
    flags = dict(zip(ours[4::2], ours[5::2], strict=True))
    settings = json.loads(bare[2])
    assert ours[:4] == [sys.executable, "-m", "ingraft", "train"]
    for flag, name in {
        "--model": "model", "--data": "data", "--output": "output", "--seed": "seed", "--batch-size": "batch_size",
        "--learning-rate": "learning_rate", "--epochs": "epochs", "--lora.r": "rank", "--lora.alpha": "alpha",
        "--lora.dropout": "dropout",
    }.items():  # fmt: skip
        assert flags[flag] == str(settings[name])
