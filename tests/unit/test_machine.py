"""What the machine has, and what a container leaves of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingraft.machine import available_memory, free_bytes, is_running


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


def test_processes() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()

    assert is_running(os.getpid())
    assert is_running(1)  # of another user, for most
    assert not is_running(done.pid)
