"""The whole job: windows → vectors → parts → one Parquet file. What a killed run has done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ingraft.embedding.job import Job, assemble, begun
from ingraft.embedding.model import Backend, check_model
from ingraft.embedding.texts import Window, open_texts, windows
from ingraft.embedding.vectors import Precision
from ingraft.embedding.work import worker
from ingraft.errors import UnusableInput, one_of
from ingraft.hub import expanded

Engine: TypeAlias = Literal["local", "ray"]
Observe: TypeAlias = Callable[[int, int], None]

WINDOW = 4096


@dataclass(frozen=True)
class EmbedResult:
    """`rows` in all, of which `resumed` were there from an earlier run.

    seconds            of this run, start and loading included
    texts_per_second   of this run, once the model is loaded (with ray: once the cluster is asked for)
    """

    output: Path
    rows: int
    resumed: int
    dimension: int
    precision: str
    backend: str
    engine: str
    seconds: float
    texts_per_second: float

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "output": str(self.output)}


def embed(
    model: str | Path,
    texts: str | Path,
    output: str | Path,
    *,
    column: str | None = None,
    id_column: str | None = None,
    prompt_name: str | None = None,
    precision: Precision = "float32",
    backend: Backend = "torch",
    engine: Engine = "local",
    workers: int | None = None,
    batch_size: int = 32,
    window: int = WINDOW,
    device: str | None = None,
    overwrite: bool = False,
    restart: bool = False,
    trust_remote_code: bool = False,
    observe: Observe = lambda done, total: None,
) -> EmbedResult:
    """Write ids and vectors of the rows of `texts` to the Parquet file `output`, in their order.

    Vectors are what `SentenceTransformer.encode` returns. The same call goes on where a killed one stopped.
    window   rows that are sorted by length together, and lost when a run is killed
    workers  of the engine ray; default: one for each of its CPUs
    observe  is told the rows done and the rows in all
    Raises UnusableInput; finished parts then stay for the next run.
    """
    started, output = time.monotonic(), expanded(output)
    one_of("backend", backend, get_args(Backend))
    one_of("precision", precision, get_args(Precision))
    one_of("engine", engine, get_args(Engine))
    for name, number in (("batch_size", batch_size), ("window", window)):
        if number < 1:
            raise UnusableInput(f"{name} is {number}; expected at least 1.")
    _check_output(output, overwrite)
    if workers is not None and engine != "ray":
        raise UnusableInput("--workers is for --engine ray.", hint="Leave it out, or add --engine ray.")
    layout = check_model(model, backend)
    file = open_texts(Path(texts), column=column, ids=id_column)
    if layout.root.resolve() in output.resolve().parents:
        raise UnusableInput(
            f"{output} lies in the model's directory, which would no longer be what was published.",
            hint="Name another output.",
        )
    if file.path.resolve() == output.resolve():
        raise UnusableInput(f"{output} is the file with the texts.", hint="Name another output.")
    job = Job(layout, file, output, backend, precision, prompt_name, window, batch_size, device, trust_remote_code)
    planned = windows(file, window)
    total = sum(part.rows for part in planned)
    with begun(job, restart=restart):
        done = job.done(planned)
        resumed = sum(part.rows for part in done)
        observe(resumed, total)
        finished = {part.number for part in done}
        left = [part for part in planned if part.number not in finished]
        busy = _run(job, left, engine, workers, lambda rows: observe(resumed + rows, total))
        joining = time.monotonic()
        dimension = assemble(job, planned)
        busy += time.monotonic() - joining
    seconds = time.monotonic() - started
    rate = (total - resumed) / busy
    return EmbedResult(output, total, resumed, dimension, precision, backend, engine, seconds, round(rate, 1))


def _run(
    job: Job, left: Sequence[Window], engine: Engine, workers: int | None, advance: Callable[[int], None]
) -> float:
    """Do the windows that are `left`; returns the seconds that it took, without loading the model here."""
    if not left:
        return 0.0
    if engine == "ray":
        from ingraft.embedding.ray_engine import run_on_ray

        started = time.monotonic()
        run_on_ray(job, left, workers=workers, advance=advance)
        return time.monotonic() - started
    work, rows = worker(job), 0
    started = time.monotonic()
    for window in left:
        work(window)
        rows += window.rows
        advance(rows)
    return time.monotonic() - started


def _check_output(output: Path, overwrite: bool) -> None:
    if output.suffix.lower() != ".parquet":
        raise UnusableInput(f"{output} must end in .parquet.", hint=f"Name it {output.with_suffix('.parquet').name}")
    if output.is_dir():
        raise UnusableInput(f"{output} is a directory; expected a file.", hint="Name another output.")
    if output.exists() and not overwrite:
        raise UnusableInput(f"{output} exists.", hint="Name another output, or replace it with --overwrite.")
