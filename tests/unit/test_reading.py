"""Bytes of files by position: read, and mapped."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ingraft import reading
from ingraft.reading import look_at, read_into

PAGE = mmap.ALLOCATIONGRANULARITY


@pytest.fixture(params=["mapped", "read", "read by seeking", "no mapping here"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(reading, "MAPPED", reading.MAPPED and "read" not in request.param)
    monkeypatch.setattr(reading, "PORTABLE", reading.PORTABLE or "seeking" in request.param)
    if request.param == "no mapping here":
        monkeypatch.setattr(mmap, "mmap", refuse)
    return str(request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(251)) * (3 * PAGE // 251))
    return path


def looked_at(file: object, position: int, count: int) -> bytes:
    return bytes(look_at(file, position, count))  # type: ignore[arg-type]


def read(file: object, position: int, count: int) -> bytes:
    buffer = bytearray(count)
    read_into(file, position, buffer)  # type: ignore[arg-type]
    return bytes(buffer)


@pytest.mark.parametrize("get", [looked_at, read])
@pytest.mark.parametrize(("position", "count"), [(0, 10), (PAGE, PAGE), (PAGE - 1, 2), (7, 2 * PAGE), (5, 0)])
def test_any_part(get: Callable[..., bytes], position: int, count: int, path: Path, way: str) -> None:
    with path.open("rb", buffering=0) as file:
        assert get(file, position, count) == path.read_bytes()[position : position + count]


def test_an_array_without_elements(path: Path, way: str) -> None:
    with path.open("rb", buffering=0) as file:
        read_into(file, 5, np.empty((0, 3), np.float32))


@pytest.mark.parametrize("get", [looked_at, read])
def test_beyond_the_end(get: Callable[..., bytes], path: Path, way: str) -> None:
    """Never mapped: the first look at it would end the process."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file, pytest.raises(EOFError, match=r"x ends at byte .*, 100 bytes too early"):
        get(file, size - 100, 200)


@pytest.mark.skipif(not reading.MAPPED, reason="files are not mapped on this system")
def test_what_is_mapped_is_the_file(path: Path) -> None:
    """Not a copy of it, and not to be changed through the view."""
    with path.open("r+b", buffering=0) as file:
        view = look_at(file, 10, 3)
        file.seek(10)
        file.write(b"new")

    assert bytes(view) == b"new"
    assert view.readonly
