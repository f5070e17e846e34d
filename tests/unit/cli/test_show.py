"""How facts are worded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.files import stored_tensors
from helpers.handmade import write_adapter, write_base
from helpers.merging import cli
from ingraft.cli import show
from ingraft.errors import UnusableInput


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1 k"), (22_713_216, "22.7 M"), (596_049_920, "596 M"), (1.5e9, "1.5 B")],
)
def test_counts(number: float, text: str) -> None:
    assert show.count(number) == text


def test_plurals() -> None:
    assert (show.plural(0, "file"), show.plural(1, "file"), show.plural(1234, "file")) == (
        "0 files",
        "1 file",
        "1,234 files",
    )


def test_json_goes_to_a_file_or_says_why_not(tmp_path: Path) -> None:
    show.save_json(tmp_path / "x.json", {"α": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"α": [1, None]}

    with pytest.raises(UnusableInput, match=r"cannot be written: Is a directory\. Name a file"):
        show.save_json(tmp_path, {})


def test_no_bars_where_there_is_no_terminal() -> None:
    with show.progress(True) as progress:
        assert progress is None


def test_long_lines_are_not_wrapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are searched by line."""
    monkeypatch.setenv("COLUMNS", "40")
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / ("base" * 30)))

    lines = cli("merge", adapter, tmp_path / "out").out.splitlines()

    assert lines[0].startswith("base      base")
    assert lines[0].endswith("in 1 file")


def test_names_with_brackets_are_not_markup(tmp_path: Path) -> None:
    base = write_base(tmp_path / "[red]base")
    adapter = write_adapter(tmp_path / "[bold]adapter", base)

    run = cli("merge", adapter, tmp_path / "[out]")

    assert run.code == 0
    assert "[red]base" in run.out
    assert f'("{tmp_path / "[out]"}")' in run.out
    assert stored_tensors(tmp_path / "[out]")


@pytest.mark.parametrize("name", ["Größe ä", "名前", "a b", "-x", "'quote\"", "new\nline"])
def test_odd_paths(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / name / "base")
    adapter = write_adapter(tmp_path / name / "adapter", base)

    run = cli("merge", adapter, tmp_path / "out" / name)

    assert (run.code, run.err) == (0, "")
    assert (tmp_path / "out" / name / "model.safetensors").is_file()
    found = cli("merge", adapter, tmp_path / "none", "--dry-run", "--format", "json")
    assert json.loads(found.out)["plan"]["base"]["root"] == str(base)
