"""Merges in processes of their own, which may be killed: started from a server that has torch imported already."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["ingraft.pipeline", "ingraft.execute.edits", "ingraft.verification.weights", "ingraft.cli.app"]
)


def _run(arguments: Sequence[str], log: str) -> None:
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from ingraft.cli.app import main

    sys.exit(main(arguments))


def start(*arguments: str | Path, log: Path | str = os.devnull) -> BaseProcess:
    """One command line; what it prints goes to `log`."""
    process = _context.Process(target=_run, args=([str(argument) for argument in arguments], str(log)))
    process.start()
    return process


def end(process: BaseProcess) -> int:
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


def working_directories(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.name.startswith(".ingraft-"))


def wait_until_working(parent: Path, process: BaseProcess) -> None:
    """Until the merge has made its working directory, or has ended."""
    while process.is_alive() and not working_directories(parent):
        time.sleep(0.0005)
