"""Vectors by an older Sentence Transformers with its ONNX backend, which reads onnx/model.onnx through optimum."""

from __future__ import annotations

from job import Job


def main(job: Job) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job.model, backend="onnx", device="cpu")
    job.save(model.encode(job.texts), "sentence-transformers", "transformers", "optimum-onnx", "onnxruntime")


Job.run(main)
