"""What `auto` stands for, and that a number which was given stays."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ingraft.training.config import LoraSettings, TrainingConfig, check_settings
from ingraft.training.defaults import decided, undecided
from ingraft.training.facts import Chosen
from ingraft.training.job import settled
from ingraft.training.run import train

CONFIG = TrainingConfig(model="base", data="rows.csv", output=Path("adapter"))
MINILM = 22_713_216


def choose(parameters: int = MINILM, rows: int = 1_000, **changes: Any) -> tuple[Any, int | str, int | str]:
    config, _ = decided(dataclasses.replace(CONFIG, **changes), parameters=parameters, rows=rows)
    return config.learning_rate, config.lora.r, config.lora.alpha


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        (MINILM, 1e-3), (199_999_999, 1e-3), (200_000_000, 5e-4), (335_000_000, 5e-4), (568_000_000, 5e-4),
        (1_000_000_000, 2e-4), (7_000_000_000, 1e-4), (70_000_000_000, 1e-4),
    ],
)  # fmt: skip
def test_the_rate_falls_with_the_size_of_the_base(parameters: int, rate: float) -> None:
    assert choose(parameters) == (rate, 8, 32)


@pytest.mark.parametrize(("rows", "r"), [(2, 8), (99_999, 8), (100_000, 16), (1_000_000, 32)])
def test_the_rank_rises_with_the_rows_and_the_scale_stays(rows: int, r: int) -> None:
    """With more α, a step of the same rate changes more."""
    assert choose(rows=rows) == (1e-3 * 8 / r, r, 4 * r)


def test_what_is_given_stays() -> None:
    assert choose(learning_rate=0.5, lora=LoraSettings(3, 5)) == (0.5, 3, 5)
    assert choose(rows=10**6, lora=LoraSettings(r=2)) == (4e-3, 2, 8)
    assert choose(rows=10**6, lora=LoraSettings(alpha=64)) == (5e-4, 32, 64)
    assert choose(learning_rate=1e-3, lora=LoraSettings(r=64)) == (1e-3, 64, 256)
    given = dataclasses.replace(CONFIG, learning_rate=0.5, lora=LoraSettings(3, 5))
    assert not undecided(given)
    assert decided(given, parameters=1, rows=1) == (given, Chosen(()))


def test_methods_without_a_rank_keep_theirs() -> None:
    """LoRA's settings beside another method are refused: a resolved config must not hold any."""
    config = dataclasses.replace(CONFIG, method="loha")
    chosen, reasons = decided(config, parameters=MINILM, rows=1_000)
    assert (chosen.learning_rate, chosen.lora) == (1e-3, LoraSettings())
    assert not undecided(chosen)
    assert reasons.words == ("learning rate 0.001 for all bases with loha",)


def test_rs_lora_keeps_its_alpha() -> None:
    assert choose(rows=10**6, method="RS-LoRA") == (1e-3, 32, 32)
    assert choose(rows=10**6, method="DoRA") == (2.5e-4, 32, 128)


def test_the_reason_is_given() -> None:
    def words(parameters: int, rows: int) -> tuple[str, ...]:
        return decided(CONFIG, parameters=parameters, rows=rows)[1].words

    assert words(MINILM, 540) == (
        "rank 8 for data below 100,000 rows",
        "α 32 for the scale 4",
        "learning rate 0.001 for bases below 200 M parameters and α 32",
    )
    assert words(568_000_000, 200_000) == (
        "rank 16 for data 100,000 to 1,000,000 rows",
        "α 64 for the scale 4",
        "learning rate 0.00025 for bases 200 M to 1 B parameters and α 64",
    )
    assert words(8 * 10**9, 10**7)[2] == "learning rate 2.5e-05 for bases from 4 B parameters and α 128"


def test_auto_is_a_valid_setting() -> None:
    check_settings(CONFIG)
    assert undecided(CONFIG)


def test_a_run_tells_and_records_what_it_took(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> None:
    config = TrainingConfig(str(tiny_model), str(pairs_file), tmp_path / "adapter", batch_size=32, max_pairs=96)
    events: list[Any] = []
    train(config, observe=events.append)
    [chosen] = [event for event in events if isinstance(event, Chosen)]
    assert chosen.words[-1] == "learning rate 0.001 for bases below 200 M parameters and α 32"
    written = (tmp_path / "adapter" / "ingraft_training.yaml").read_text()
    assert "learning_rate: 0.001\n" in written
    assert "  r: 8\n  alpha: 32\n" in written


def test_settled_is_what_a_run_would_take(tiny_model: Path, pairs_file: Path, tmp_path: Path) -> None:
    config = TrainingConfig(str(tiny_model), str(pairs_file), tmp_path / "adapter", holdout=0)
    found = settled(config)
    assert (found.learning_rate, found.lora) == (1e-3, LoraSettings(8, 32))
    elsewhere = dataclasses.replace(config, model="org/model-of-the-hub")
    assert settled(elsewhere) == elsewhere
    assert settled(dataclasses.replace(config, data="org/rows")).learning_rate == "auto"
