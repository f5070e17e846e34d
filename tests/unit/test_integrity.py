"""A merged directory against its manifest, without anything else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.handmade import write_adapter, write_base
from helpers.merging import merged
from ingraft.errors import UnusableInput
from ingraft.integrity import verify_hashes, verify_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base = write_base(tmp_path / "base", sentence_transformers=True, shards=2)
    return merged(write_adapter(tmp_path / "adapter", base))


def test_every_file_is_compared(folder: Path) -> None:
    found = {check.name: check for check in verify_manifest(folder)}

    assert all(check.passed for check in found.values())
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "ingraft.json"]
    assert found["hashes"].value == len(files) == 9
    assert found["published files"].value == 8  # the card is free


def test_all_faults_are_counted_and_the_first_ones_named(folder: Path) -> None:
    names = sorted(path.name for path in folder.glob("*.json") if path.name != "ingraft.json")
    for name in names[:-1]:
        (folder / name).write_text("{}")
    (folder / names[-1]).unlink()

    found = {check.name: check for check in verify_hashes(folder)}["published files"]

    assert (found.passed, found.value, found.limit) == (False, 8 - len(names), 8)
    assert f"{names[0]} has another sha256" in found.where
    assert found.where.endswith(f" and {len(names) - 3} more")


def test_no_manifest(folder: Path) -> None:
    (folder / "ingraft.json").unlink()

    assert verify_hashes(folder) == ()
    with pytest.raises(UnusableInput, match=r"has no ingraft\.json"):
        verify_manifest(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"schema": {"a": 0}}, "has schema {'a': 0}, this version of ingraft reads 1"),
        ({"schema": "1" * 10_000}, "has schema 1{60}, this version"),
        ({"files": []}, "holds no list of files and their hashes"),
        ({"files": {"a": 3}}, "holds no list of files and their hashes"),
        ({"files": {"../a": "0" * 64}}, r"names '\.\./a', which lies outside"),
        ({"files": {"x" * 300: "0" * 64}}, "x{100}"),
        ({"files": {"\0": "0" * 64}}, "no file can be called"),
        ({"files": {"\ud800": "0" * 64}}, "no file can be called"),
        ({"files": {"1_Pooling": "0" * 64}}, "1_Pooling is missing"),
    ],
)
def test_a_manifest_that_is_none_fails_a_check(change: dict[str, Any], fault: str, folder: Path) -> None:
    path = folder / "ingraft.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    for checks in (verify_manifest(folder), verify_hashes(folder)):
        [first, *_] = [check.where for check in checks if not check.passed]
        assert re.search(fault, first)
        assert len(first) < 500


def test_it_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from ingraft.cli.app import main; code = main(['verify', sys.argv[1]]);"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules]); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-2:] == ["intact    5 checks passed", "[]"]
