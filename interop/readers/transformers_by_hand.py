"""Vectors by transformers alone: AutoModel, and pooling written out here."""

from __future__ import annotations

import json
from pathlib import Path

from job import Job


def main(job: Job) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    length = json.loads((Path(job.model) / "sentence_bert_config.json").read_text()).get("max_seq_length")
    pooling = json.loads((Path(job.model) / "1_Pooling" / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    model = AutoModel.from_pretrained(job.model).eval()
    rows = []
    for text in job.texts:
        inputs = tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            states = model(**inputs).last_hidden_state[0]
        pooled = states[-1] if pooling["pooling_mode_lasttoken"] else states.mean(0)
        rows.append(torch.nn.functional.normalize(pooled, dim=0))
    job.save(torch.stack(rows).float().numpy(), "transformers")


Job.run(main)
