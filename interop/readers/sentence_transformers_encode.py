"""Vectors by the installed Sentence Transformers: of a model, or of a base with an adapter on it."""

from __future__ import annotations

from job import Job


def main(job: Job) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job.model, device="cpu")
    if job.adapter:
        model.load_adapter(job.adapter)
    job.save(model.encode(job.texts), "sentence-transformers", "transformers")


Job.run(main)
