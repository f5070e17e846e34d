"""`ingraft diff` on what `ingraft merge` has written: exit codes, the table, the JSON."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from helpers.merging import cli, merged_once
from helpers.models import copy_of, lora_config, sentence_adapter, sentence_base

RANK = 8


@functools.cache
def merge() -> tuple[Path, Path]:
    base = sentence_base("bert", "bfloat16")
    return base, merged_once(sentence_adapter(base, lora_config("bert", r=RANK)))


def test_equal_is_0() -> None:
    _, output = merge()

    run = cli("diff", output, copy_of(output))

    assert (run.code, run.err) == (0, "")
    assert run.out.splitlines()[-1].split() == ["equal", "every", "tensor", "and", "every", "file"]


def test_different_is_1_and_the_table_has_the_adapter_in_it() -> None:
    base, output = merge()

    run = cli("diff", base, output)

    assert (run.code, run.err) == (1, "")
    rows = [line.split() for line in run.out.splitlines() if line.startswith("encoder.layer.")]
    assert len(rows) == 12
    assert {row[6] for row in rows} == {str(RANK)}
    sizes = [float(row[1]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert run.out.splitlines()[-1].startswith("different 13 tensors, ")  # the pooler too


def test_json_says_the_same() -> None:
    base, output = merge()

    run = cli("diff", base, output, "--format", "json")

    assert (run.code, run.err) == (1, "")
    found = json.loads(run.out)
    assert (found["schema"], found["equal"]) == (1, False)
    changed = [tensor for tensor in found["tensors"] if tensor["state"] == "changed"]
    assert {tensor["rank"]["value"] for tensor in changed} == {RANK}
    assert {file["path"] for file in found["files"] if file["state"] == "only in b"} >= {"ingraft.json"}


def test_every_field_is_documented() -> None:
    base, output = merge()
    found = json.loads(cli("diff", base, output, "--format", "json").out)
    documented = (Path(__file__).parents[2] / "docs" / "diff.md").read_text(encoding="utf-8")
    tensor = next(tensor for tensor in found["tensors"] if tensor["state"] == "changed")

    for part in (found, tensor, tensor["change"], tensor["rank"], tensor["a"], found["files"][0]):
        for field in part:
            assert f"`{field}`" in documented


@pytest.mark.parametrize("arguments", [("nowhere", "nowhere"), (".",)])
def test_unusable_is_2(tmp_path, monkeypatch, arguments) -> None:
    monkeypatch.chdir(tmp_path)

    run = cli("diff", *arguments)

    assert run.code == 2
    assert run.out == ""
    assert "Traceback" not in run.err
