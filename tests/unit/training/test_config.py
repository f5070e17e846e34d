"""One option, one place: every field has a docstring, a flag and, where it can be wrong, a check."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ingraft.cli.config_options import options_of
from ingraft.cli.format import Format
from ingraft.demo.config import DemoConfig
from ingraft.errors import UnusableInput
from ingraft.training.config import (
    DatasetSettings,
    LoraSettings,
    MiningSettings,
    PromptSettings,
    TrainingConfig,
    check_settings,
    command_line,
)
from ingraft.training.keys import field_docs, keys_of

VALID = TrainingConfig(model="model", data="rows.csv", output=Path("adapter"))


@pytest.mark.parametrize(
    "config", [TrainingConfig, LoraSettings, MiningSettings, PromptSettings, DatasetSettings, DemoConfig]
)
def test_every_field_is_documented(config: Any) -> None:
    docs = field_docs(config)
    settings = [field for field in dataclasses.fields(config) if "Settings" not in str(field.type)]
    assert [name for name in docs if name in {field.name for field in settings}] == [field.name for field in settings]
    assert all(text.endswith(".") for text in docs.values())


def test_valid_settings_pass() -> None:
    check_settings(VALID)
    check_settings(dataclasses.replace(VALID, holdout=0, lora=LoraSettings(dropout=0), epochs=0.1, max_pairs=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("learning_rate", 0),
        ("learning_rate", 1.5),
        ("learning_rate", float("nan")),
        ("batch_size", 1),
        ("lora.r", 0),
        ("lora.alpha", 0),
        ("lora.dropout", 1),
        ("max_pairs", 1),
        ("mini_batch_size", 0),
        ("base_precision", "dequantized"),
        ("matryoshka", (0,)),
        ("mining.range_max", 0),
        ("holdout", 1),
        ("holdout", -0.1),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: Any) -> None:
    with pytest.raises(UnusableInput, match=f"--{field.replace('_', '-')} is .*; expected "):
        check_settings(changed(VALID, field, value))


def changed(config: Any, name: str, value: Any) -> Any:
    group, _, inner = name.rpartition(".")
    if not group:
        return dataclasses.replace(config, **{name: value})
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{inner: value})})


def run(*arguments: str) -> tuple[Any, list[Any]]:
    """Run a command with the options of TrainingConfig; what it was called with."""
    called: list[Any] = []

    @options_of(TrainingConfig)
    def train(config: TrainingConfig, format: Format) -> None:
        """Help of the verb."""
        called.extend((config, format))

    app = typer.Typer()
    app.command()(train)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "300"}), called


REQUIRED = ("--model", "m", "--data", "d.csv", "--output", "o")


def test_flags_have_the_defaults_of_the_fields() -> None:
    result, called = run(*REQUIRED)
    assert result.exit_code == 0, result.output
    assert called == [TrainingConfig(model="m", data="d.csv", output=Path("o")), "human"]


def test_flags_set_the_fields() -> None:
    flags = {"--learning-rate": "0.5", "--max-pairs": "7", "--target-modules": "query,value", "--format": "json"}
    flags["--lora.r"] = "16"
    result, [config, format] = run(*REQUIRED, "--overwrite", *[part for flag in flags.items() for part in flag])
    assert result.exit_code == 0
    assert (config.learning_rate, config.max_pairs, config.target_modules) == (0.5, 7, "query,value")
    assert config.overwrite
    assert config.lora == LoraSettings(r=16)
    assert config.lora.alpha == "auto"
    assert format == "json"


def test_a_config_as_a_command_line_is_that_config() -> None:
    config = dataclasses.replace(
        changed(VALID, "lora.alpha", 7),
        output=Path("with a space"),
        learning_rate=2e-3,
        epochs=2,
        max_pairs=9,
        matryoshka=(64, 32),
        columns={"anchor": "a b", "positive": "c: d"},
        prompts=PromptSettings(query="find: "),
        holdout=0,
        overwrite=True,
    )
    words = shlex.split(command_line(config))
    assert words[:2] == ["ingraft", "train"]
    assert "--lora.r" not in words
    assert words[words.index("--lora.alpha") + 1] == "7"
    _, called = run(*words[2:])
    assert called == [config, "human"]


def test_a_missing_flag_and_an_unknown_one_are_refused() -> None:
    result, called = run("--model", "m", "--data", "d.csv")
    assert called == []
    assert isinstance(result.exception, UnusableInput)
    assert result.exception.hint == "Pass --output."
    assert run(*REQUIRED, "--ouput", "x")[0].exit_code == 2
    refused, called = run(*REQUIRED, "--lora.r", "many")
    assert called == []
    assert str(refused.exception) == "--lora.r is 'many'; expected a whole number or auto."


def test_help_is_the_docstrings() -> None:
    result, _ = run("--help")
    words = " ".join(result.output.replace("│", " ").split())
    assert "Help of the verb." in words
    assert "--learning-rate FLOAT|auto" in words
    assert "--lora.r INTEGER|auto" in words
    for key in keys_of(TrainingConfig):
        assert key.flag in words
        assert key.doc.split(",")[0].split(";")[0].split(":")[0].split("→")[0] in words
