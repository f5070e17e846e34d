"""Vectors by infinity's server over HTTP."""

from __future__ import annotations

from job import Job, post, serving


def main(job: Job) -> None:
    import numpy

    command = ["infinity_emb", "v2", "--model-id", job.model, "--engine", "torch", "--no-bettertransformer"]
    options = ["--device", "cpu", "--dtype", "float32", "--no-model-warmup", "--batch-size", "4"]
    with serving([*command, *options, "--port", "{port}"], "/health") as address:
        answer = post(f"{address}/embeddings", {"model": job.model.rstrip("/").rsplit("/", 1)[-1], "input": job.texts})
    rows = [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]
    job.save(numpy.array(rows, dtype="float32"), "infinity-emb", "sentence-transformers", "transformers")


Job.run(main)
