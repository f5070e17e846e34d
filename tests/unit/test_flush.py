"""What was written is brought to the disk while more is written, and all of it in the end."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from ingraft import flush
from ingraft.flush import flushing


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that fsync was called on, in order."""
    calls: list[Path] = []
    monkeypatch.setattr(flush, "fsync", calls.append)
    return calls


LARGE = 1 << 40


def test_little_waits_for_the_end(synced: list[Path]) -> None:
    with flushing({Path("a"): LARGE, Path("b"): LARGE}) as to_disk:
        to_disk.written(Path("a"), 10)
        to_disk.written(Path("b"), 20)
        assert synced == []
    assert sorted(synced) == [Path("a"), Path("b")]


def test_much_goes_at_once_and_the_rest_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    called = threading.Event()

    def fsync(path: Path) -> None:
        calls.append(path)
        called.set()

    monkeypatch.setattr(flush, "fsync", fsync)
    with flushing({Path("a"): LARGE}) as to_disk:
        to_disk.written(Path("a"), 1 << 27)
        assert called.wait(10)
        assert calls == [Path("a")]
        to_disk.written(Path("a"), 1)
    assert calls == [Path("a"), Path("a")]


def test_complete_file_does_not_wait_for_the_block_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    called = threading.Event()

    def fsync(path: Path) -> None:
        calls.append(path)
        called.set()

    monkeypatch.setattr(flush, "fsync", fsync)
    with flushing({Path("a"): 3, Path("b"): 3}) as to_disk:
        to_disk.written(Path("a"), 2)
        to_disk.written(Path("b"), 1)
        assert not called.wait(0.05)
        to_disk.written(Path("a"), 1)
        assert called.wait(10)
        assert calls == [Path("a")]


@pytest.mark.parametrize("early", [True, False])
def test_a_file_that_is_not_read_again_leaves_memory(
    early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is on the disk, and no other."""
    left: list[tuple[Path, bool]] = []
    calls: list[Path] = []
    monkeypatch.setattr(flush, "leave_memory", lambda path: left.append((path, path in calls)))
    monkeypatch.setattr(flush, "fsync", calls.append)
    with flushing({tmp_path / "a": 3, tmp_path / "b": 3}) as to_disk:
        for name in ("a", "b"):
            to_disk.written(tmp_path / name, 3)
        if not early:
            while len(calls) < 2:
                time.sleep(0.01)
        to_disk.let_go(tmp_path / "a")
    assert left
    assert set(left) == {(tmp_path / "a", True)}


def test_leaving_memory_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    flush.leave_memory(path)
    assert path.read_bytes() == b"content"


def test_leaving_memory_is_a_wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    (tmp_path / "a").touch()
    flush.leave_memory(tmp_path / "a")


def test_error_of_the_disk_is_raised_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), flushing({tmp_path / "absent": LARGE}) as to_disk:
        to_disk.written(tmp_path / "absent", 1)


def test_failing_block_flushes_nothing_more(synced: list[Path]) -> None:
    def fail() -> None:
        with flushing({Path("a"): LARGE}) as to_disk:
            to_disk.written(Path("a"), 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert synced == []


def test_it_is_fsync_that_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"a")
    real, descriptors = os.fsync, []

    def fsync(descriptor: int) -> None:
        real(descriptor)
        descriptors.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with flushing({tmp_path / "a": LARGE}) as to_disk:
        to_disk.written(tmp_path / "a", 1)
    assert len(descriptors) == 1
