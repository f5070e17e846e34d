"""One run of one process, measured by the kernel: wall time, CPU time, peak memory, and who else was busy meanwhile.

This module and whoever imports it stay small: on Linux a child's peak memory is at least what its parent had when it
was started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

QUIET_CORES = 0.25
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Run:
    """What one process took.

    seconds     wall time, from start to exit
    cpu         user and system time of all its threads and of the processes that it waited for
    peak        peak resident memory in bytes (`ru_maxrss`); pages of mapped files count
    others      cores that other processes and the kernel kept busy meanwhile; None where /proc/stat is missing
    output      what it printed to stdout
    """

    seconds: float
    cpu: float
    peak: int
    others: float | None
    output: str

    def facts(self) -> dict[str, float | None]:
        """What is kept of it, in JSON types."""
        return {"seconds": self.seconds, "cpu": self.cpu, "peak": self.peak, "others": self.others}

    @property
    def quiet(self) -> bool:
        return self.others is None or self.others <= QUIET_CORES


class RunFailed(Exception):
    """A measured process ended with an error; the message has the end of its stderr."""


def run(command: Sequence[str], *, environment: dict[str, str]) -> Run:
    """Run `command` to its end and measure it. Raises RunFailed when its exit code is not 0."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        busy_before, started = _busy_seconds(), time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        seconds, busy_after = time.perf_counter() - started, _busy_seconds()
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen waits for it again
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode:
            end = stderr.read().decode(errors="replace")[-2000:]
            raise RunFailed(f"{' '.join(command)} ended with {process.returncode}:\n{end}")
        cpu = used.ru_utime + used.ru_stime
        others = None
        if busy_before is not None and busy_after is not None:
            others = max(0.0, (busy_after - busy_before - cpu) / seconds)
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return Run(seconds, cpu, used.ru_maxrss * unit, others, stdout.read().decode(errors="replace"))


def quiet_run(prepare: Callable[[], None], command: Sequence[str], *, environment: dict[str, str], tries: int) -> Run:
    """`run` after `prepare`, again if the machine was not quiet, at most `tries` times; the quietest of them.

    Which run counts depends on other processes only, never on the time that was measured.
    """
    best: Run | None = None
    for _ in range(max(1, tries)):
        if tries > 1:
            wait_until_quiet()
        prepare()
        one = run(command, environment=environment)
        if best is None or (one.others or 0.0) < (best.others or 0.0):
            best = one
        if best.quiet:
            break
    assert best is not None
    return best


def wait_until_quiet() -> None:
    """Wait, at most two minutes, for a second in which nothing else needs the processor."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < end:
        before = _busy_seconds()
        time.sleep(1.0)
        after = _busy_seconds()
        if before is None or after is None or after - before <= QUIET_CORES:
            return


def _busy_seconds() -> float | None:
    """Processor seconds that the machine has worked since it was started, all cores together."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def fresh(output: Path | None, read: Sequence[Path], *, cold: bool) -> None:
    """The same state before every run: no output, nothing left to write, `read` in the page cache or out of it."""
    if output is not None:
        shutil.rmtree(output, ignore_errors=True)
    os.sync()
    for path in read:
        with path.open("rb", buffering=0) as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            buffer = bytearray(1 << 22)
            while file.readinto(buffer):
                pass


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
