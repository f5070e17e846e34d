"""Small files beside the weights: what is said of two that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingraft.diff.small_files import FileDiff, compare_files


def compared(folder: Path, a: str, b: str) -> FileDiff:
    for name, text in (("a", a), ("b", b)):
        (folder / name).mkdir()
        (folder / name / "x.json").write_text(text)
    [found] = compare_files({"x.json": folder / "a" / "x.json"}, {"x.json": folder / "b" / "x.json"})
    return found


def test_keys_that_differ_are_named(tmp_path: Path) -> None:
    assert compared(tmp_path, '{"a": 1, "b": 2}', '{"a": 1, "b": 3}').detail == "b 2 → 3"


@pytest.mark.parametrize("other", ["[]", "x", '{"a": ' + "[" * 600 + "2" + "]" * 600 + "}"])
def test_what_cannot_be_told_apart_by_keys_is_so_by_size(other: str, tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 600 + "1" + "]" * 600 + "}"

    found = compared(tmp_path, deep, other)

    assert (found.state, found.detail) == ("changed", f"{len(deep):,} → {len(other):,} bytes")
