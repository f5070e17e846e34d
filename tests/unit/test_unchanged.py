"""Inputs that change while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ingraft.errors import CheckFailed
from ingraft.unchanged import unchanged


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"12345")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda path: path.write_bytes(b"123456"),
    "written to": lambda path: os.utime(path, ns=(0, 1)),
    "replaced": replaced,
    "removed": Path.unlink,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_is_named(change: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"12345")

    with pytest.raises(CheckFailed, match=r"b was changed"), unchanged([tmp_path / "a", tmp_path / "b"]):
        CHANGES[change](tmp_path / "b")


def test_files_that_are_read_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")

    with unchanged([tmp_path / "a"]):
        (tmp_path / "a").read_bytes()


def test_what_fails_in_the_block_is_raised(tmp_path: Path) -> None:
    def fail() -> None:
        with unchanged([tmp_path / "a"]):
            (tmp_path / "a").write_bytes(b"new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()


def test_a_file_that_is_cut_off_is_named_when_its_end_is_missed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")

    def read(change: bool) -> None:
        with unchanged([tmp_path / "a"]):
            if change:
                (tmp_path / "a").write_bytes(b"12")
            raise EOFError("a ends early")

    with pytest.raises(EOFError):
        read(change=False)
    with pytest.raises(CheckFailed, match="a was changed while it was merged"):
        read(change=True)
