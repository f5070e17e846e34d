"""Windows on the workers of a Ray cluster. Parts are written where the output is: a disk that all of them share."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import astuple
from typing import Any

from ingraft.embedding.job import Job
from ingraft.embedding.texts import Window
from ingraft.embedding.work import worker
from ingraft.errors import IngraftError, UnusableInput, last_line
from ingraft.exporters.sessions import require


class _Actor:
    """One worker: the model is loaded once, then a window comes at a time."""

    def __init__(self, job: Job) -> None:
        self._work = worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do the windows of `batch` and hand back their numbers; a user's mistake as words, not as a retry."""
        import numpy

        mistake = ""
        for values in batch["window"]:
            try:
                self._work(Window(*(int(value) for value in values)))
            except UnusableInput as error:
                mistake = str(error)
        rows = [int(values[2]) for values in batch["window"]]
        return {"rows": numpy.array(rows), "mistake": numpy.array([mistake] * len(rows))}


def run_on_ray(job: Job, left: Sequence[Window], *, workers: int | None, advance: Callable[[int], None]) -> None:
    """Embed `left` with a pool of `workers` actors (default: one for each CPU of the cluster) of one CPU each.

    Ray starts actors again that die, and gives their windows to others; a part is put in place whole or not at all.
    """
    require("ray", "ray")
    rows = 0
    if job.precision == "int8" and job.ranges() is None:
        worker(job)(left[0])  # all workers need its ranges
        rows, left = left[0].rows, left[1:]
        advance(rows)
    if not left:
        return
    with _cluster(workers) as (ray, cpus):
        pool = ray.data.ActorPoolStrategy(size=min(workers or cpus, len(left)))
        specs = [{"window": list(astuple(window))} for window in left]
        done = ray.data.from_items(specs, override_num_blocks=len(specs)).map_batches(
            _Actor, fn_constructor_args=(job,), batch_size=1, compute=pool, num_cpus=1
        )
        try:
            for row in done.iter_rows():
                if row["mistake"]:
                    raise UnusableInput(row["mistake"])
                rows += int(row["rows"])
                advance(rows)
        except IngraftError:
            raise
        except Exception as error:  # whatever Ray raises when it gives up
            raise UnusableInput(
                f"Ray gave up: {last_line(error)}", hint="Finished parts are kept; the same command goes on."
            ) from None


@contextmanager
def _cluster(workers: int | None) -> Iterator[tuple[Any, int]]:
    """Ray and its number of CPUs: of the cluster that RAY_ADDRESS names, or of one on this machine within the block."""
    # Workers answer with their own words; bars and log lines of theirs would break ours.
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What Ray says of workers that die goes to stderr: stdout is for the result.
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        ray: Any = require("ray", "ray")
        require("ray.data", "ray")
        logging.getLogger("ray").setLevel(logging.ERROR)
        ours = not ray.is_initialized()
        if ours:
            local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **local)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.verbose_progress = False
        try:
            yield ray, max(1, int(ray.cluster_resources().get("CPU", 1)))
        finally:
            if ours:
                ray.shutdown()
