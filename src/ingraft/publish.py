"""All or nothing: work in a hidden sibling of the output, make it durable, then put it in place with one rename."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.files import human_bytes
from ingraft.flush import fsync
from ingraft.machine import available_memory, free_bytes, is_running
from ingraft.output_files import MANIFEST

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

IN_PLACE: list[Path] = []
"""Every output that this process has published, in order: for whoever has to say how far an interrupted run came."""

_MARK = ".ingraft-"
# Of these each model, adapter or export has one at least.
_MODEL_FILES = ("config.json", "modules.json", "adapter_config.json", MANIFEST, "*.safetensors")


def check_output(output: Path, *, overwrite: bool, inputs: tuple[Path, ...] = ()) -> None:
    """Raise UnusableInput when `output` cannot be published to: for its place, or because something is in it.

    `overwrite` lets that be a model, an adapter or an export, and nothing else.
    """
    check_place(output, inputs=inputs)
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not overwrite:
        raise UnusableInput(f"{output} is not empty.", hint="Name another output, or replace it with --overwrite.")
    if not any(any(output.glob(name)) for name in _MODEL_FILES):
        raise UnusableInput(
            f"{output} is not empty and holds no model, so it is not replaced.", hint="Name another output."
        )


def check_place(output: Path, *, inputs: tuple[Path, ...] = ()) -> None:
    """Raise UnusableInput when no directory can be made, or replaced, at `output`: there is a file, the directory that
    one is in, a disk's mount point, or one of the `inputs`."""
    if output.is_symlink() and not output.exists():
        raise UnusableInput(f"{output} is a broken symbolic link.", hint="Name another output.")
    if output.exists() and not output.is_dir():
        raise UnusableInput(f"{output} is a file; expected a directory.", hint="Name another output.")
    resolved = output.resolve()
    if resolved in (here := Path.cwd()).parents or resolved == here:
        raise UnusableInput(
            f"{output} is or holds the directory that you are in, which would be replaced.",
            hint="Name a new directory, for example: merged",
        )
    if resolved.is_dir() and os.path.ismount(resolved):
        raise UnusableInput(
            f"{output} is where a disk is mounted, so it cannot be replaced.",
            hint=f"Name a directory in it, for example: {output / 'merged'}",
        )
    for source in inputs:
        real = source.resolve()
        if resolved == real or resolved in real.parents or real in resolved.parents:
            raise UnusableInput(f"{output} is, holds or lies in {source}, which is read.", hint="Name another output.")


def check_file(path: Path, *, inputs: Iterable[str | Path] = (), model: Path | None = None) -> None:
    """Raise UnusableInput when no file can be written to `path`: for what is there, or because it is an input's.

    inputs  files, directories and Hub ids that are read; a file of theirs is not replaced
    model   a directory that holds, or will hold, nothing but a model
    """
    if path.is_dir():
        raise UnusableInput(f"{path} is a directory; expected a file.", hint="Name a new file in it.")
    if path.exists() and not path.is_file():  # a device or a pipe: nothing is replaced
        return
    real = _real(path)
    above = next(folder for folder in real.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "may not be written to" if above.is_dir() else "is a file, in which nothing can lie"
        raise UnusableInput(f"{path} cannot be written: {above} {what}.", hint="Name a file in another directory.")
    for source in map(_real, map(Path, inputs)):
        if real == source or (real.exists() and source in real.parents):
            raise UnusableInput(f"{path} would replace what is read.", hint="Name another file.")
    if model is not None and _real(model) in real.parents:
        raise UnusableInput(
            f"{path} would lie in {model}, where ingraft verify allows no file but the model's own.",
            hint=f"Name one beside it, such as {model.with_name(path.name)}.",
        )


def check_room(output: Path, *, disk: int, memory: int) -> None:
    """Raise UnusableInput when the disk or the memory cannot hold what the plan needs; the message has both numbers."""
    free = free_bytes(_real(output).parent)
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
    target = _real(output)
    parent = target.parent
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    work = parent / f"{_MARK}{target.name}.{os.getpid()}.{secrets.token_hex(4)}"
    try:
        with _made(work, output):
            yield work
            make_durable(work)
            for folder in created:
                fsync(folder.parent)
            put_in_place(work, target, overwrite=overwrite)
    except OSError as error:
        # Of a file elsewhere (an input, a temporary one) the error itself says best what is wrong.
        elsewhere = error.filename is not None and not {target, work} & {*_with_parents(error.filename)}
        if error.errno is None or elsewhere:
            raise
        raise UnusableInput(f"Writing {output} failed: {error.strerror}. Nothing was published.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in created:
            with suppress(OSError):  # not empty: the output is in it
                folder.rmdir()


@contextmanager
def _made(work: Path, output: Path) -> Iterator[None]:
    """Make `work` and have it in use. Until that, the clean-up of another run may take it for a leftover."""
    while True:
        try:
            work.parent.mkdir(parents=True, exist_ok=True)
            clean_up(output)
            work.mkdir()
        except OSError as error:
            raise UnusableInput(
                f"{work.parent} cannot be written: {error.strerror}.", hint="Name another output."
            ) from None
        with in_use(work):
            if work.is_dir():
                yield
                return


def _real(output: Path) -> Path:
    """Where `output` leads; a directory must be renamed on its own disk."""
    return Path(os.path.realpath(output))


def _with_parents(filename: object) -> tuple[Path, ...]:
    path = Path(os.fsdecode(filename)) if isinstance(filename, (str, bytes, os.PathLike)) else Path()
    return (path, *path.parents)


def clean_up(output: Path) -> None:
    """Remove working directories for `output` that no run uses any more; put back an output that was being swapped."""
    target = _real(output)
    left_by_a_run = re.compile(rf"{re.escape(_MARK + target.name)}\.(\d+)\.[0-9a-f]{{8}}(\.old)?")
    try:
        names = sorted(path.name for path in target.parent.iterdir())
    except OSError:
        return
    for name in names:
        found = left_by_a_run.fullmatch(name)
        if found is None:
            continue
        left = target.parent / name
        with _unused(left, int(found[1])) as unused:
            if unused and found[2] and not target.exists():
                left.rename(target)
                fsync(target.parent)
            elif unused:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """While the block runs, `folder` is locked, under whatever name: other runs see that it is not a leftover.

    The numbers of processes cannot tell that: in containers all runs have the same.
    """
    descriptor = _lock(folder, shared=True)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _unused(folder: Path, process: int) -> Iterator[bool]:
    """Is no run using `folder`? Where nothing can be locked, that is told by the number of its process."""
    try:
        descriptor = _lock(folder, shared=False)
    except BlockingIOError:
        yield False
        return
    if descriptor is None:
        yield process != os.getpid() and not is_running(process)
        return
    try:
        yield True
    finally:
        os.close(descriptor)


def _lock(folder: Path, *, shared: bool) -> int | None:
    """A descriptor that locks `folder`, or None where that cannot be done. BlockingIOError: another one has it."""
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_durable(folder: Path) -> None:
    """fsync every file and directory below `folder`, and `folder`."""
    for path in sorted(folder.rglob("*"), reverse=True):
        fsync(path)
    fsync(folder)


def put_in_place(work: Path, output: Path, *, overwrite: bool) -> None:
    """Rename `work` to `output`; an old `output` is renamed away first and removed last, an empty one is replaced.

    It is done when it is on the disk. Where anything fails before that, `output` is what it was.
    """
    if not output.is_dir() or not any(output.iterdir()):
        _move(work, output)
        return
    if not overwrite:
        raise UnusableInput(f"{output} is no longer empty; it was filled in the meantime.")
    old = work.with_name(f"{work.name}.old")
    with in_use(output):
        try:
            output.rename(old)
            _move(work, output)
        except BaseException:
            if old.exists():
                old.rename(output)
                _fsync_if_possible(output.parent)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _move(work: Path, output: Path) -> None:
    """Rename `work` to `output`, which is free or empty, and bring that to the disk; taken back where that fails."""
    was_empty = output.is_dir()
    try:
        if sys.platform == "win32" and was_empty:  # where a rename replaces no directory
            output.rmdir()
        work.rename(output)
        fsync(output.parent)
        IN_PLACE.append(output)
    except BaseException:
        if not work.exists():
            output.rename(work)
        if was_empty:
            output.mkdir(exist_ok=True)
        _fsync_if_possible(output.parent)
        raise


def _fsync_if_possible(folder: Path) -> None:
    """For what is put back: the error that made it necessary says more than a second one."""
    with suppress(OSError):
        fsync(folder)
