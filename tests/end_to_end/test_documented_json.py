"""docs/verification.md documents the JSON that is printed: no field more, no field less."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.keys import write_keys
from helpers.merging import cli
from helpers.models import lora_config, sentence_adapter, sentence_base

DOCS = (Path(__file__).parents[2] / "docs" / "verification.md").read_text(encoding="utf-8")


def documented(first: str) -> list[str]:
    """The names in the first column of the table whose head begins with `first`."""
    (rows,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[ :|-]+\|\n((?:\|.*\n)+)", DOCS, re.MULTILINE)
    return [name for row in rows.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    adapter = sentence_adapter(sentence_base("bert"), lora_config("bert", target_modules=["query"]))
    output = tmp_path_factory.mktemp("merged") / "out"
    task = tmp_path_factory.mktemp("task") / "pairs.csv"
    task.write_text("sentence1,sentence2,score\nfever,cough,0.5\npain,foot,0.1\nchest,hand,0.3\n")
    private, public = write_keys(tmp_path_factory.mktemp("keys") / "pair")
    commands = {
        "merge": ["merge", adapter, output, "--sign", private],
        "verify": ["verify", output, "--adapter", adapter, "--task", task],
        "alone": ["verify", output, "--key", public],
    }
    return {name: json.loads(cli(*command, "--format", "json").out) for name, command in commands.items()}


def test_fields_are_those_that_are_documented(printed: dict[str, dict[str, Any]]) -> None:
    merged, verified = printed["merge"], printed["verify"]
    figures = {**merged["verification"]["figures"], **verified["figures"]}

    assert list(merged) == documented("field of `merge --format json`")
    assert list(verified) == list(merged["verification"]) == list(printed["alone"]) == documented("field of the proof")
    assert list(verified["checks"][0]) == documented("field of a check")
    assert list(figures) == documented("field of `figures`")
    assert list(figures["tensors"][0]) == documented("field of an entry of `tensors`")
    assert list(figures["embeddings"]) == documented("field of `embeddings`")
    assert list(figures["task"]) == documented("field of `task`")
    assert list(figures["task"]["metrics"][0]) == documented("field of an entry of `metrics`")


def test_checks_are_those_that_are_documented(printed: dict[str, dict[str, Any]]) -> None:
    proofs = [printed["merge"]["verification"], printed["verify"], printed["alone"]]
    made = dict.fromkeys(check["name"] for proof in proofs for check in proof["checks"])

    assert set(made) == set(documented("check"))
    assert all(check["passed"] for proof in proofs for check in proof["checks"])
