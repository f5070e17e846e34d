"""Vectors by fastembed, from the ONNX graph beside the model; pooling is what the person who adds a model says."""

from __future__ import annotations

import json
from pathlib import Path

from job import Job


def main(job: Job) -> None:
    import numpy
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder = Path(job.model)
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    TextEmbedding.add_custom_model(
        model="merged",
        pooling=PoolingType.LAST_TOKEN if pooling["pooling_mode_lasttoken"] else PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="nobody/merged"),
        dim=json.loads((folder / "config.json").read_text())["hidden_size"],
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding("merged", specific_model_path=job.model)
    job.save(numpy.stack(list(model.embed(job.texts))), "fastembed", "onnxruntime")


Job.run(main)
