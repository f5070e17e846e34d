"""Bytes between files, by Linux calls and without them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ingraft import reading
from ingraft.checkpoint import transfer
from ingraft.checkpoint.transfer import copy_bytes, open_files, write_from
from ingraft.reading import read_into


@pytest.fixture(params=[False, True], ids=["linux", "portable"], autouse=True)
def portable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(reading, "PORTABLE", request.param)
    return bool(request.param)


CONTENT = bytes(range(256)) * 50


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(b"." * 3000)
    return path


def test_write(target: Path) -> None:
    with open_files() as files:
        write_from(files.get(target, "r+b"), 1000, b"x" * 500)
        write_from(files.get(target, "r+b"), 2900, bytearray(b"y" * 200))

    assert target.read_bytes() == b"." * 1000 + b"x" * 500 + b"." * 1400 + b"y" * 200


def test_copy(source: Path, target: Path) -> None:
    with open_files() as files:
        copy_bytes(files.get(source), 256, files.get(target, "r+b"), 10, 1024)
        copy_bytes(files.get(source), 0, files.get(target, "r+b"), 0, 0)

    assert target.read_bytes() == b"." * 10 + CONTENT[256:1280] + b"." * (3000 - 1034)


def test_copy_beyond_the_end(source: Path, target: Path) -> None:
    with open_files() as files, pytest.raises(EOFError):
        copy_bytes(files.get(source), len(CONTENT) - 10, files.get(target, "r+b"), 0, 20)


def test_copy_of_many_pieces(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "CHUNK", 8 * 100)
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.EXDEV), raising=False)
    with open_files() as files:
        copy_bytes(files.get(source), 3, files.get(target, "r+b"), 0, 2345)

    assert target.read_bytes()[:2345] == CONTENT[3:2348]


@pytest.mark.parametrize(("start", "position"), [(0, 0), (100, 100), (4096, 0), (4097, 4097), (9000, 808), (5, 4101)])
@pytest.mark.parametrize("count", [0, 1, 4095, 4096, 9000, 12288])
def test_whole_blocks_are_cloned_and_their_edges_copied(
    start: int, position: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portable: bool
) -> None:
    """What a file system may be asked to clone: whole blocks, at the same place in their block."""
    content = os.urandom(30000)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "target").write_bytes(b"." * 30000)

    def clone(source: Any, start: int, target: Any, position: int, count: int) -> int:
        assert start % 4096 == position % 4096 == count % 4096 == 0
        assert count > 0
        write_from(target, position, content[start : start + count])
        return count

    monkeypatch.setattr(transfer, "_clone", clone)
    with open_files() as files:
        cloned = copy_bytes(
            files.get(tmp_path / "source"), start, files.get(tmp_path / "target", "r+b"), position, count
        )

    expected = b"." * position + content[start : start + count] + b"." * (30000 - position - count)
    assert (tmp_path / "target").read_bytes() == expected
    blocks = (start + count) // 4096 - -(-start // 4096)
    assert cloned == (0 if portable or start % 4096 != position % 4096 else 4096 * max(0, blocks))


@pytest.fixture(params=["xfs", "btrfs"])
def cloning_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system that clones, in a file of its own."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    make = shutil.which(f"mkfs.{request.param}")
    steps = ([str(make), "-q", str(image)], ["mount", "-o", "loop", str(image), str(disk)])
    for step in steps:
        # Only root can mount it, and not every machine has mkfs of both. What is asked of the kernel is tested above
        # without a disk; here is what real file systems answer.
        if make is None or subprocess.run(step, capture_output=True).returncode:
            pytest.skip(f"needs {request.param}, and root to mount it")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_systems_that_clone(cloning_disk: Path, portable: bool) -> None:
    content = os.urandom(1 << 20) * 64
    (cloning_disk / "source").write_bytes(content)
    with (cloning_disk / "target").open("wb") as file:
        transfer.reserve(file, len(content))

    with open_files() as files:
        source, target = files.get(cloning_disk / "source"), files.get(cloning_disk / "target", "r+b")
        cloned = copy_bytes(source, 100, target, 100, len(content) - 200)

    assert (cloning_disk / "target").read_bytes() == bytes(100) + content[100:-100] + bytes(100)
    assert cloned == (0 if portable else len(content) - 2 * 4096)


def refuse(number: int) -> Any:
    def call(*_: Any, **__: Any) -> int:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_where_the_kernel_cannot_copy(number: int, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", refuse(number), raising=False)
    with open_files() as files:
        copy_bytes(files.get(source), 5, files.get(target, "r+b"), 100, 2000)

    assert target.read_bytes()[100:2100] == CONTENT[5:2005]


def test_where_the_kernel_copies_a_part_and_stops(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.copy_file_range, []

    def some(a: int, b: int, count: int, start: int, position: int) -> int:
        calls.append(count)
        return real(a, b, min(count, 700), start, position) if len(calls) < 3 else 0

    monkeypatch.setattr(os, "copy_file_range", some)
    with open_files() as files:
        copy_bytes(files.get(source), 5, files.get(target, "r+b"), 100, 2000)

    assert target.read_bytes() == b"." * 100 + CONTENT[5:2005] + b"." * 900


def test_full_disk_is_not_swallowed(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PORTABLE", False)  # the portable way does not ask the kernel to copy
    monkeypatch.setattr(os, "copy_file_range", refuse(errno.ENOSPC))
    with open_files() as files, pytest.raises(OSError, match="No space left") as failed:
        copy_bytes(files.get(source), 5, files.get(target, "r+b"), 100, 2000)

    assert failed.value.errno == errno.ENOSPC


def test_calls_that_move_a_part_are_repeated(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, real_write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real_read(fd, [buffers[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, data[:7], at))
    buffer = bytearray(1000)
    with open_files() as files:
        read_into(files.get(source), 1, buffer)
        write_from(files.get(target, "r+b"), 50, buffer)

    assert buffer == CONTENT[1:1001]
    assert target.read_bytes()[50:1050] == CONTENT[1:1001]


def test_threads_share_a_file(source: Path, target: Path) -> None:
    """Positions are named with every call: nobody reads or writes where another one has left off."""
    target.write_bytes(bytes(len(CONTENT)))

    def move(start: int) -> None:
        piece = bytearray(64)
        read_into(files.get(source), start, piece)
        write_from(files.get(target, "r+b"), start, piece)

    with open_files() as files, ThreadPoolExecutor(4) as pool:
        list(pool.map(move, range(0, len(CONTENT), 64)))

    assert target.read_bytes() == CONTENT


def test_files_are_closed(source: Path) -> None:
    with open_files() as files:
        file = files.get(source)
        assert files.get(source) is file

    assert file.closed
