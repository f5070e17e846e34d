"""JSON that says where it is broken, paths that stay in their directory, room on disk and in memory."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.files import (
    MAX_JSON_BYTES,
    available_memory,
    free_bytes,
    human_bytes,
    inside,
    read_json,
    read_json_object,
    to_json,
)


def test_json_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(to_json({"Größe": [1, None, "x"]}), encoding="utf-8")

    assert read_json_object(path) == {"Größe": [1, None, "x"]}
    assert path.read_bytes().endswith(b"]\n}\n")
    assert "Größe" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "not JSON: .* in line 2"),
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", r"x\.json"),
    ],
    ids=["syntax", "empty", "latin-1", "deep", "huge number"],
)
def test_broken_json_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)

    with pytest.raises(UnusableInput, match=message) as refused:
        read_json(path)

    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


def test_missing_json_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UnusableInput, match="cannot be read"):
        read_json(tmp_path)


def test_json_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)

    with pytest.raises(UnusableInput, match="too many for a JSON file"):
        read_json(path)


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "true"])
def test_object_is_asked_for(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(UnusableInput, match="expected an object"):
        read_json_object(path)


@pytest.mark.parametrize("name", ["model.safetensors", "a/b.json", "", ".", "./a", "..a", "a..b/c", "0_Transformer/"])
def test_inside(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name, named_by=tmp_path / "x.json") == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["..", "../a", "a/../../b", "a/..", "/etc/passwd", "//host/x", "..\\a", "a\\..\\..\\b", "C:", "C:a", "c:/a"],
)
def test_outside(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"x\.json names .* outside"):
        inside(tmp_path, name, named_by=tmp_path / "x.json")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (90_900_000, "90.9 MB"), (999_600, "1 MB"), (1.5e12, "1.5 TB")],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_free_bytes_of_a_folder_to_come(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(os.statvfs(tmp_path).f_bavail * 4096, rel=0.2)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Gives files below /proc and /sys the contents that a test wants; those it does not name do not exist."""
    real = io.open

    def arrange(contents: dict[str, str]) -> None:
        def open_(path: Any, *arguments: Any, **keywords: Any) -> Any:
            name = os.fspath(path) if not isinstance(path, int) else ""
            if not str(name).startswith(("/proc/", "/sys/")):
                return real(path, *arguments, **keywords)
            if name not in contents:
                raise FileNotFoundError(2, "No such file or directory", name)
            return io.StringIO(contents[name])

        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr("builtins.open", open_)

    return arrange


MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def test_memory_of_the_machine(pretend: Callable[[dict[str, str]], None]) -> None:
    pretend({"/proc/meminfo": MEMINFO, "/sys/fs/cgroup/memory.max": "max\n"})

    assert available_memory() == 8_000_000 * 1024


def test_memory_of_a_container(pretend: Callable[[dict[str, str]], None]) -> None:
    cgroup = "/sys/fs/cgroup/memory"
    pretend(
        {
            "/proc/meminfo": MEMINFO,
            f"{cgroup}.max": "1000000000\n",
            f"{cgroup}.current": "400000000\n",
            f"{cgroup}.stat": "anon 400000000\ninactive_file 0\nactive_file 0\n",
        }
    )

    assert available_memory() == 600_000_000


def test_cached_files_do_not_use_up_a_container(pretend: Callable[[dict[str, str]], None]) -> None:
    """Reading a large model fills the page cache, which counts as the container's and is given back on demand."""
    cgroup = "/sys/fs/cgroup/memory"
    pretend(
        {
            "/proc/meminfo": MEMINFO,
            f"{cgroup}.max": "1000000000\n",
            f"{cgroup}.current": "990000000\n",
            f"{cgroup}.stat": "anon 90000000\nfile 900000000\ninactive_file 900000000\nactive_file 0\n",
        }
    )

    found = available_memory()

    assert found is not None
    assert found >= 850_000_000


def test_memory_of_a_system_without_proc(pretend: Callable[[dict[str, str]], None]) -> None:
    pretend({})

    found = available_memory()

    assert found is not None
    assert found == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_json_of_what_is_no_text() -> None:
    """A file name in another encoding than the system's, as Python spells it."""
    value = {"name": "a\udce4", "emoji": "😀", "ä": 1}

    text = to_json(value)

    assert json.loads(text.encode()) == value
    assert "😀" in text
    assert "ä" in text
