"""How embedding a file is printed: rows done, rate and time left on a terminal, then what was written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingraft.cli import show
from ingraft.embedding.run import EmbedResult
from ingraft.files import human_bytes


@contextmanager
def progress(human: bool) -> Iterator[Callable[[int, int], None]]:
    """What to call with the rows done and the rows in all; silent when stderr is no terminal."""
    if not human or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    bars = Progress(
        TextColumn("[bold cyan]embed    "),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )
    task = bars.add_task("", total=None, rate="")

    def observe(done: int, total: int) -> None:
        speed = bars.tasks[0].speed
        bars.update(task, completed=done, total=total, rate=f"{speed:,.0f}/s" if speed else "")

    with bars:
        yield observe


def result(result: EmbedResult) -> None:
    """Rows, width and precision, and the rate of this run."""
    resumed = f", {result.resumed:,} of them from an earlier run" if result.resumed else ""
    show.line("texts", f"{result.rows:,}{resumed}")
    rate = f"{result.texts_per_second:,.0f} texts/s" if result.rows > result.resumed else "nothing left to do"
    show.line("embed", f"{result.backend} · {result.engine} · {rate} · {result.seconds:.1f} s")
    size = human_bytes(result.output.stat().st_size)
    show.line("vectors", f"{result.output} · {result.precision}[{result.dimension}] · {size}", style="bold green")
