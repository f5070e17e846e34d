"""One window from texts to its part on the disk: the same on one machine and on every worker of a cluster."""

from __future__ import annotations

from collections.abc import Callable

from ingraft.embedding.job import Job
from ingraft.embedding.model import load_embedder
from ingraft.embedding.texts import Window, read_window
from ingraft.embedding.vectors import RANGES, as_table, in_precision, int8_ranges, ranges_text

Worker = Callable[[Window], None]


def worker(job: Job) -> Worker:
    """Load the model once, and return what embeds a window and writes its part."""
    embedder = load_embedder(
        job.layout,
        backend=job.backend,
        prompt_name=job.prompt_name,
        batch_size=job.batch_size,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
    )

    def work(window: Window) -> None:
        rows = read_window(job.file, window)
        vectors = embedder.embed(rows.texts)
        ranges = job.ranges()
        if job.precision == "int8" and ranges is None:
            ranges = int8_ranges(vectors)  # of the first window that is done
            job.save_ranges(ranges_text(ranges))
            ranges = job.ranges()
        metadata = {"ingraft.model": job.layout.root.name, "ingraft.precision": job.precision}
        if job.prompt_name is not None:
            metadata["ingraft.prompt"] = job.prompt_name
        if ranges is not None:
            metadata[RANGES] = ranges_text(ranges)
        stored = in_precision(vectors, job.precision, ranges)
        job.write_part(window, as_table(rows.ids, stored, name=job.id_name, metadata=metadata))

    return work
