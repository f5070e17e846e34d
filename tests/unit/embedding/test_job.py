"""A run's directory: one run at a time, what is finished stays finished, and a full disk loses none of it."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from helpers.embeddings import some_texts, write_texts
from helpers.handmade import write_base
from ingraft.embedding.job import Job, assemble, begun
from ingraft.embedding.texts import Window, open_texts, windows
from ingraft.embedding.vectors import as_table
from ingraft.errors import UnusableInput
from ingraft.layout import read_layout


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Twenty texts in windows of eight, in directories whose names are not ASCII."""
    model = write_base(tmp_path / "模型 目录", sentence_transformers=True)
    file = open_texts(write_texts(tmp_path / "文本 a.jsonl", some_texts(20)))
    output = tmp_path / "向量 1" / "v.parquet"
    return Job(read_layout(model), file, output, "torch", "float32", None, 8, 32, "cpu", False)


def finish(job: Job, window: Window) -> None:
    """What a worker does, with numbers that tell the row."""
    rows = range(window.first, window.first + window.rows)
    vectors = numpy.array([[row, -row] for row in rows], dtype=numpy.float32)
    job.write_part(window, as_table(rows, vectors, name=job.id_name, metadata={}))


def test_parts_become_the_output_in_order(job: Job) -> None:
    planned = windows(job.file, job.window)
    with begun(job, restart=False) as going_on:
        assert not going_on
        for window in reversed(planned):
            finish(job, window)
        assert assemble(job, planned) == 2

    table = pyarrow.parquet.read_table(job.output)
    assert table["id"].to_pylist() == list(range(20))
    assert table["embedding"].to_pylist() == [[row, -row] for row in range(20)]
    assert not job.folder.exists()


def test_a_run_that_finished_nothing_leaves_nothing(job: Job) -> None:
    """Mended, its input is another file: there is nothing of the old one that would not fit."""
    with contextlib.suppress(KeyboardInterrupt), begun(job, restart=False):
        job.save_ranges("[[0], [1]]")
        killed = shutil.copytree(job.folder, job.output.with_name("killed"))
        raise KeyboardInterrupt
    assert not job.folder.exists()

    killed.rename(job.folder)  # nobody tidies up after a kill
    with begun(dataclasses.replace(job, prompt_name="query"), restart=False) as going_on:
        assert not going_on
        assert job.ranges() is None


def test_two_runs_into_one_output(job: Job) -> None:
    with begun(job, restart=False):
        with pytest.raises(UnusableInput, match=r"Another run is writing .*v\.parquet"), begun(job, restart=True):
            pass
        assert job.folder.is_dir()


def test_a_disk_that_fills_up_keeps_what_was_done(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is named, whatever pyarrow says, and the next run begins behind the parts that are there."""
    first, *others = windows(job.file, job.window)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    def run() -> None:
        with begun(job, restart=False):
            finish(job, first)
            monkeypatch.setattr(pyarrow.parquet, "write_table", full)
            finish(job, others[0])

    with pytest.raises(UnusableInput) as refused:
        run()
    assert refused.value.message == f"Writing {job.output} failed: No space left on device."

    monkeypatch.undo()
    with begun(job, restart=False) as going_on:
        assert going_on
        assert job.done([first, *others]) == [first]


def test_restart_forgets_what_was_done(job: Job) -> None:
    first, *_ = windows(job.file, job.window)
    with contextlib.suppress(KeyboardInterrupt), begun(job, restart=False):
        finish(job, first)
        raise KeyboardInterrupt

    with begun(job, restart=True) as going_on:
        assert not going_on
        assert job.done([first]) == []
