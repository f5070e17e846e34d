"""All that a training run can be told, in one place: a field and its docstring make YAML key, flag and help."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput


@dataclass(frozen=True)
class LoraSettings:
    """The matrices of LoRA and of the methods that start from it."""

    r: int = 8
    """Rank r of the LoRA matrices."""

    alpha: int = 32
    """LoRA scaling: the delta is multiplied with alpha / r."""

    dropout: float = 0.1
    """Dropout in front of the LoRA matrices, while training."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune a Sentence Transformers model with an adapter."""

    model: str
    """Base model: a directory, or an id on the Hugging Face Hub."""

    data: Path
    """Training file (CSV, TSV, JSONL, JSON, Parquet): pairs, pairs with negatives, or pairs with a score."""

    output: Path
    """Directory for the adapter."""

    epochs: float = 1.0
    """Passes over the training rows."""

    learning_rate: float = 1e-3
    """Highest learning rate; it rises over the first tenth of the steps and then falls to zero."""

    batch_size: int = 64
    """Rows per step. For pairs, the other rows of a batch are the wrong answers: larger is better."""

    lora: LoraSettings = field(default_factory=LoraSettings)
    """Settings of LoRA."""

    target_modules: str = "auto"
    """Names of the layers to adapt, with commas between; auto takes all linear layers of all blocks."""

    max_pairs: int | None = None
    """Use at most this many rows of the file, drawn at random."""

    holdout: float = 0.1
    """Share of the rows that is not trained on but measured before and after; 0 for none."""

    seed: int = 0
    """Seed of the split, the adapter's initial weights, the order of the rows and dropout."""

    skip_bad_rows: bool = False
    """Leave out rows that cannot be used, instead of refusing the file."""

    overwrite: bool = False
    """Replace an adapter that is already in the output directory."""

    trust_remote_code: bool = False
    """Run Python code that comes with the base model."""


def command_line(config: TrainingConfig) -> str:
    """The `ingraft train` that has this config, with the settings that are not the defaults."""
    return shlex.join(["ingraft", "train", *_words(config, "")])


def check_settings(config: TrainingConfig) -> None:
    """UnusableInput naming the first setting that is out of range."""
    _require(config.epochs > 0, "epochs", config.epochs, "more than 0")
    _require(0 < config.learning_rate < 1, "learning-rate", config.learning_rate, "between 0 and 1")
    _require(config.batch_size >= 2, "batch-size", config.batch_size, "2 or more, because rows are compared")
    _require(config.lora.r >= 1, "lora.r", config.lora.r, "1 or more")
    _require(config.lora.alpha >= 1, "lora.alpha", config.lora.alpha, "1 or more")
    _require(0 <= config.lora.dropout < 1, "lora.dropout", config.lora.dropout, "from 0 to below 1")
    _require(config.max_pairs is None or config.max_pairs >= 2, "max-pairs", config.max_pairs, "2 or more")
    _require(0 <= config.holdout < 1, "holdout", config.holdout, "a share from 0 to below 1")
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")


def _words(config: Any, prefix: str) -> list[str]:
    words = []
    for entry in fields(config):
        value, name = getattr(config, entry.name), f"{prefix}{entry.name.replace('_', '-')}"
        if is_dataclass(value):
            words += _words(value, f"{name}.")
        elif value is True:
            words.append(f"--{name}")
        elif value != entry.default:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _require(holds: bool, flag: str, value: Any, expected: str) -> None:
    if not holds:
        raise UnusableInput(f"--{flag} is {value}; expected {expected}.")
