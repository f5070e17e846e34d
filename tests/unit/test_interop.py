"""`make interop`: what it says about readers, without running one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from ingraft.serving.doctor import SERVERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def part(name: str) -> Any:
    return importlib.import_module(f"interop.{name}")


def answer(**changes: Any) -> Any:
    known: dict[str, Any] = {
        "reader": "A server", "model": "a model", "what": "portable", "seconds": 1.0, "versions": {"server": "1"},
        "difference": 1e-6, "long": 1e-3, "effect": 0.5, "error": "", "predicted": "ready",
    }  # fmt: skip
    return part("run").Answer(**{**known, **changes})


def test_every_reader_has_a_script_an_environment_and_rules() -> None:
    environments = {"own", *part("environments").ENVIRONMENTS}
    for reader in part("table").READERS:
        assert (ROOT / "interop" / "readers" / f"{reader.script}.py").is_file()
        assert reader.environment in environments
        assert reader.server is None or reader.server.split("==")[0] in {server.name for server in SERVERS}


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({}, True),
        ({"difference": 1e-4}, False),
        ({"error": "no", "predicted": "will not start"}, True),
        ({"error": "no"}, False),
        ({"predicted": "will not start"}, False),
        ({"error": "no", "predicted": ""}, False),
    ],
)
def test_what_counts_as_passed(changes: dict[str, Any], passed: bool) -> None:
    if "error" in changes:
        changes = {**changes, "difference": None, "long": None}
    assert answer(**changes).passed is passed


def test_page(tmp_path: Path) -> None:
    refused = answer(what="keep", error="TypeError: a|b", difference=None, long=None, predicted="will not start")

    part("page").write_page([answer(), refused, answer(difference=1.0)], tmp_path / "page.md", 2e-5)

    text = (tmp_path / "page.md").read_text()
    assert "| A server | portable | 1.0e-06 | 1.0e-03 | ready |" in text
    assert "| A server | keep | does not start: `TypeError: a\\|b` | | will not start |" in text
    assert text.count("**FAILED**") == 1
    assert "Adapter's effect: 0.50" in text
