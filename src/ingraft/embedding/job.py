"""A run that can be killed: what is being done, and which windows of it are done, in a directory beside the output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.embedding.model import Backend, graph_of
from ingraft.embedding.text_file import TextFile
from ingraft.embedding.texts import Window
from ingraft.embedding.vectors import Precision
from ingraft.errors import UnusableInput
from ingraft.exporters.source import weight_files
from ingraft.files import read_json_object, to_json
from ingraft.flush import fsync
from ingraft.layout import Layout

_JOB, _RANGES = "job.json", "ranges.json"
# Of modules, prompts and tokenizers, which change vectors as much as weights do; and of code.
_SMALL_FILES = {".json", ".txt", ".model", ".py"}


@dataclass(frozen=True)
class Job:
    """What a run computes; two runs with the same job have the same result.

    batch_size, device, trust_remote_code  how, which does not matter for the result
    """

    layout: Layout
    file: TextFile
    output: Path
    backend: Backend
    precision: Precision
    prompt_name: str | None
    window: int
    batch_size: int
    device: str | None
    trust_remote_code: bool

    @property
    def folder(self) -> Path:
        """Where finished parts wait for the others."""
        return self.output.parent / f".{self.output.name}.parts"

    @property
    def id_name(self) -> str:
        return self.file.ids or "id"

    def part(self, window: Window) -> Path:
        return self.folder / f"part-{window.number:07d}.parquet"

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on where another one stopped."""
        used = list(weight_files(self.layout)) if self.backend == "torch" else [graph_of(self.layout, self.backend)]
        used += sorted(path for path in self.layout.root.rglob("*") if path.suffix in _SMALL_FILES)
        return {
            "model": str(self.layout.root.resolve()),
            "version of the model": [_stamp(path) for path in used],
            "input": str(self.file.path.resolve()),
            "input file": _stamp(self.file.path),
            "column": self.file.column,
            "id column": self.file.ids,
            "backend": self.backend,
            "precision": self.precision,
            "prompt": self.prompt_name,
            "window": self.window,
        }

    def done(self, windows: Sequence[Window]) -> list[Window]:
        """Those windows whose parts are there. A part is put in place whole or not at all."""
        there = {path.name for path in self.folder.iterdir()}
        return [window for window in windows if self.part(window).name in there]

    def has_parts(self) -> bool:
        return any(self.folder.glob("part-*.parquet"))

    def write_part(self, window: Window, table: Any) -> None:
        """Put a window's part in place; written twice, by a worker that was taken for dead, it is the same."""
        import pyarrow.parquet as parquet

        partial = self.folder / f"{self.part(window).name}.{os.getpid()}.partial"
        with _writing(self):
            parquet.write_table(table, partial, compression="zstd")
            fsync(partial)
            partial.replace(self.part(window))

    def ranges(self) -> Any:
        """The int8 ranges that an earlier window has left; None before that."""
        import numpy

        if not (self.folder / _RANGES).is_file():
            return None
        return numpy.array(json.loads((self.folder / _RANGES).read_text()), dtype=numpy.float32)

    def save_ranges(self, text: str) -> None:
        partial = self.folder / f"{_RANGES}.partial"
        with _writing(self):
            partial.write_text(text)
            fsync(partial)
            partial.replace(self.folder / _RANGES)


@contextmanager
def begun(job: Job, *, restart: bool) -> Iterator[bool]:
    """The job's directory, ours alone within the block. Yields whether there is something to go on with.

    It stays when the block ends by an error after a part was finished, and vanishes otherwise. UnusableInput when
    another run is at work, or the parts that lie there belong to another job.
    """
    with _made(job), _locked(job):
        record, identity = job.folder / _JOB, job.identity()
        going_on = record.is_file() and job.has_parts()
        if going_on:
            before = read_json_object(record)
            different = [name for name, value in identity.items() if before.get(name) != value]
            if different and not restart:
                raise UnusableInput(
                    f"{job.output} was begun with another {different[0]}; its finished parts do not fit.",
                    hint="Run it as before to go on, or throw them away with --restart.",
                )
            going_on = not restart
        for left in job.folder.glob("*.partial" if going_on else "*"):
            left.unlink()
        if not going_on:
            record.write_text(to_json(identity), encoding="utf-8")
            fsync(record)
        yield going_on
        shutil.rmtree(job.folder)


@contextmanager
def _made(job: Job) -> Iterator[None]:
    """The job's directory and those around it; those that were not there go again when nothing was finished."""
    created = [folder for folder in (job.folder, *job.folder.parents) if not folder.exists()]
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableInput(f"{job.output} cannot be written: {error.strerror}.", hint="Name another output.") from None
    try:
        yield
    except BaseException:
        if created and not job.has_parts():
            shutil.rmtree(job.folder, ignore_errors=True)
            for folder in created[1:]:
                with suppress(OSError):  # somebody else's files are in it
                    folder.rmdir()
        raise


def assemble(job: Job, windows: Sequence[Window]) -> int:
    """Join the parts, in the file's order, into the output: complete, on the disk, then in place by one rename.

    Returns the length of a stored vector.
    """
    import pyarrow.parquet as parquet

    partial = job.folder / "output.partial"
    schema = parquet.read_schema(job.part(windows[0]))
    with _writing(job), parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for window in windows:
            table = parquet.read_table(job.part(window))
            if table.schema != schema:
                raise UnusableInput(f"The ids in {job.id_name} are whole numbers in some rows and text in others.")
            if table.num_rows != window.rows:
                raise AssertionError(f"part {window.number} has {table.num_rows} rows, expected {window.rows}")
            writer.write_table(table)
    with _writing(job):
        fsync(partial)
        partial.replace(job.output)
        fsync(job.output.parent)
    return int(schema.field("embedding").type.list_size)


@contextmanager
def _writing(job: Job) -> Iterator[None]:
    """The disk's errors, which pyarrow words in its own way, as what a person can do about them."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UnusableInput(
            f"Writing {job.output} failed: {reason}.",
            hint="Finished parts are kept: mend that, and the same command goes on.",
        ) from error


@contextmanager
def _locked(job: Job) -> Iterator[None]:
    """Nobody else works in the directory within the block, as far as the system can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(job.folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableInput(f"Another run is writing {job.output}.", hint="Wait for it.") from None
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [path.name, status.st_size, status.st_mtime_ns]
