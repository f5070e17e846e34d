"""All or nothing: work in a hidden sibling of the output, make it durable, then put it in place with one rename."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.files import available_memory, free_bytes, human_bytes

_MARK = ".ingraft-"


def check_output(output: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raise UnusableInput when `output` is in use: a file, not empty, or one of the merge's own inputs."""
    if output.is_symlink() and not output.exists():
        raise UnusableInput(f"{output} is a broken symbolic link.", hint="Name another output.")
    if output.exists() and not output.is_dir():
        raise UnusableInput(
            f"{output} is a file; expected a directory for the merged model.", hint="Name another output."
        )
    resolved = output.resolve()
    for source in inputs:
        real = source.resolve()
        if resolved == real or resolved in real.parents or real in resolved.parents:
            raise UnusableInput(
                f"{output} is, holds or lies in {source}, which the merge reads.", hint="Name another output."
            )
    if output.is_dir() and any(output.iterdir()) and not overwrite:
        raise UnusableInput(f"{output} is not empty.", hint="Name another output, or replace it with --overwrite.")


def check_room(output: Path, *, disk: int, memory: int) -> None:
    """Raise UnusableInput when the disk or the memory cannot hold what the plan needs; the message has both numbers."""
    free = free_bytes(output.parent)
    if disk > free:
        raise UnusableInput(
            f"The disk of {output} is too small: {human_bytes(disk)} are needed, {human_bytes(free)} are free.",
            hint="Free some, or name an output on another disk.",
        )
    available = available_memory()
    if available is not None and memory > available:
        raise UnusableInput(
            f"Not enough memory: the merge takes about {human_bytes(memory)}, {human_bytes(available)} are available."
        )


@contextmanager
def published(output: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A hidden sibling directory to write into; when the block ends well it becomes `output`, else it vanishes.

    A directory that was in the way is swapped out and removed after the swap. What a killed run left is removed first.
    """
    parent = output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        clean_up(output)
        work = parent / f"{_MARK}{output.name}.{os.getpid()}.{secrets.token_hex(4)}"
        work.mkdir()
    except OSError as error:
        raise UnusableInput(f"{parent} cannot be written: {error.strerror}.", hint="Name another output.") from None
    try:
        yield work
        make_durable(work)
        put_in_place(work, output, overwrite=overwrite)
    except OSError as error:
        if error.errno is None or (error.filename is not None and not str(error.filename).startswith(str(parent))):
            raise
        raise UnusableInput(f"Writing {output} failed: {error.strerror}. Nothing was published.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def clean_up(output: Path) -> None:
    """Remove working directories for `output` whose process is gone; put back an output that was being swapped."""
    parent = output.absolute().parent
    for left in sorted(parent.glob(f"{_MARK}{glob_escape(output.name)}.*")):
        process = left.name.removeprefix(f"{_MARK}{output.name}.").split(".")[0]
        if process.isdigit() and not _alive(int(process)):
            if left.name.endswith(".old") and not output.exists():
                left.rename(output)
            else:
                shutil.rmtree(left, ignore_errors=True)


def glob_escape(name: str) -> str:
    import glob

    return glob.escape(name)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return True
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def make_durable(folder: Path) -> None:
    """fsync every file and directory below `folder`, and `folder`."""
    for path in sorted(folder.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY if sys.platform != "win32" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(work: Path, output: Path, *, overwrite: bool) -> None:
    """Rename `work` to `output`; an old `output` is renamed away first and removed last."""
    old: Path | None = None
    target = output.resolve() if output.is_symlink() else output
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise UnusableInput(f"{output} is no longer empty; it was filled while the merge ran.")
        old = work.with_name(f"{work.name}.old")
        target.rename(old)
    elif target.is_dir():
        target.rmdir()
    try:
        work.rename(target)
    except OSError:
        if old is not None:
            old.rename(target)
        raise
    _fsync(target.absolute().parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
