"""All that a training run can be told, in one place: a field and its docstring make the flag and its help."""

from __future__ import annotations

import ast
import inspect
import shlex
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput


@dataclass(frozen=True)
class TrainingConfig:
    """How to fine-tune a Sentence Transformers model with a LoRA adapter."""

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

    rank: int = 8
    """Rank r of the LoRA matrices."""

    alpha: int = 32
    """LoRA scaling: the delta is multiplied with alpha / rank."""

    dropout: float = 0.1
    """Dropout in front of the LoRA matrices, while training."""

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


def field_docs(config: type) -> dict[str, str]:
    """Field → the docstring written below it. (Python keeps no such docstrings, so the source is read.)"""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = inspect.cleandoc(text)
    return docs


def command_line(config: TrainingConfig) -> str:
    """The `ingraft train` that has this config, with the settings that are not the defaults."""
    words = ["ingraft", "train"]
    for field in fields(config):
        value = getattr(config, field.name)
        if value is True:
            words.append(_flag(field.name))
        elif value != field.default:
            words += [_flag(field.name), f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def check_settings(config: TrainingConfig) -> None:
    """UnusableInput naming the first setting that is out of range."""
    _require(config.epochs > 0, "epochs", config.epochs, "more than 0")
    _require(0 < config.learning_rate < 1, "learning-rate", config.learning_rate, "between 0 and 1")
    _require(config.batch_size >= 2, "batch-size", config.batch_size, "2 or more, because rows are compared")
    _require(config.rank >= 1, "rank", config.rank, "1 or more")
    _require(config.alpha >= 1, "alpha", config.alpha, "1 or more")
    _require(0 <= config.dropout < 1, "dropout", config.dropout, "from 0 to below 1")
    _require(config.max_pairs is None or config.max_pairs >= 2, "max-pairs", config.max_pairs, "2 or more")
    _require(0 <= config.holdout < 1, "holdout", config.holdout, "a share from 0 to below 1")
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")


def _flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _require(holds: bool, flag: str, value: Any, expected: str) -> None:
    if not holds:
        raise UnusableInput(f"--{flag} is {value}; expected {expected}.")
