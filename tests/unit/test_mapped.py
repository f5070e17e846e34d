"""Bytes of files, mapped."""

from __future__ import annotations

import errno
import mmap
from pathlib import Path

import pytest

from ingraft import mapped

PAGE = mmap.ALLOCATIONGRANULARITY
pytestmark = pytest.mark.skipif(not mapped.POSSIBLE, reason="this system's files are not mapped")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(251)) * (3 * PAGE // 251))
    return path


@pytest.mark.parametrize(("position", "count"), [(0, 10), (PAGE, PAGE), (PAGE - 1, 2), (7, 2 * PAGE), (5, 0)])
def test_any_part(path: Path, position: int, count: int) -> None:
    with path.open("rb") as file:
        view = mapped.view(file, position, count)

    assert bytes(view) == path.read_bytes()[position : position + count]
    assert view.readonly


def test_where_the_file_system_does_not_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    with path.open("rb") as file:
        assert bytes(mapped.view(file, PAGE - 1, 99)) == path.read_bytes()[PAGE - 1 : PAGE + 98]


def test_what_is_written_is_seen(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        view = mapped.view(file, 10, 3)
        file.seek(10)
        file.write(b"new")

    assert bytes(view) == b"new"


def test_beyond_the_end(path: Path) -> None:
    """Never mapped: the first look at it would end the process."""
    size = path.stat().st_size
    with path.open("rb") as file, pytest.raises(EOFError, match=f"x ends before byte {size + 1:,}"):
        mapped.view(file, size - 9, 10)
