"""What a reader is asked, and how it answers. It runs in the reader's environment: the standard library, and numpy."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START = 400  # seconds until a server must answer


@dataclass(frozen=True)
class Job:
    """model    directory of the model, or of the base where there is an `adapter`
    answer   where the vectors go (.npz), and what went wrong (.json)
    """

    model: str
    texts: list[str]
    answer: str
    adapter: str | None = None
    rank: int = 8

    @classmethod
    def run(cls, main: Callable[[Job], None]) -> None:
        """Read the job that the first argument names, and do it; the last line of an error is the answer too."""
        job = cls(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        try:
            main(job)
        except Exception as error:
            traceback.print_exc()
            lines = [line for line in str(error).splitlines() if line.strip()]
            name = "" if isinstance(error, RuntimeError) else f"{type(error).__name__}: "
            found = {"error": name + (lines[-1] if lines else "no reason given")}
            Path(job.answer).with_suffix(".json").write_text(json.dumps(found), encoding="utf-8")
            raise SystemExit(1) from None

    def save(self, rows: Any, *libraries: str) -> None:
        """The vectors [texts, width], and the versions of what made them."""
        import numpy

        versions = {name: importlib.metadata.version(name) for name in libraries}
        Path(self.answer).with_suffix(".json").write_text(json.dumps({"versions": versions}), encoding="utf-8")
        numpy.savez(self.answer, rows=rows)


@contextmanager
def serving(command: Sequence[str], health: str) -> Iterator[str]:
    """Start a server of this environment, wait until it answers at `health`, hand out its address, and stop it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program, *rest = [word.format(port=port) for word in command]
    path = Path(sys.executable).parent / program
    with open(f"{sys.argv[1]}.log", "w+", encoding="utf-8") as log:
        server = subprocess.Popen([path, *rest], stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(server, f"http://127.0.0.1:{port}{health}", log.name)
            yield f"http://127.0.0.1:{port}"
        finally:
            _stop(server)


def _wait(server: subprocess.Popen[bytes], address: str, log: str) -> None:
    until = time.monotonic() + _START
    while time.monotonic() < until:
        if server.poll() is not None:
            raise RuntimeError(_reason(Path(log).read_text(encoding="utf-8")))
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise RuntimeError("it did not answer in time")


def _reason(log: str) -> str:
    errors = [line.strip() for line in log.splitlines() if "Error" in line and "Traceback" not in line]
    return errors[-1] if errors else "it ended without a word"


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started."""
    import signal

    if server.poll() is None:
        os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def post(address: str, value: Any) -> Any:
    """Ask with JSON, answer in JSON."""
    body = json.dumps(value).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(error.read().decode()[:300]) from None
