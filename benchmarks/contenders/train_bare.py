"""A bare Sentence Transformers script: pairs in, a LoRA adapter or a whole model out. Argument: SETTINGS, as JSON.

The settings are those of the `ingraft train` that it is compared with; without a rank all weights are trained.
"""

from __future__ import annotations

import json
import sys
import time
from types import SimpleNamespace

from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import set_seed

given = SimpleNamespace(**json.loads(sys.argv[1]))
with open(given.data, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
pairs = Dataset.from_dict({role: [row[role] for row in rows] for role in ("anchor", "positive")})
model = SentenceTransformer(given.model, device="cpu")
set_seed(given.seed)
if given.rank:
    model.add_adapter(
        LoraConfig(
            task_type="FEATURE_EXTRACTION",
            r=given.rank,
            lora_alpha=given.alpha,
            lora_dropout=given.dropout,
            target_modules=given.target_modules,
            exclude_modules=given.exclude_modules,
        )
    )
arguments = SentenceTransformerTrainingArguments(
    output_dir=f"{given.output}-run",
    num_train_epochs=given.epochs,
    per_device_train_batch_size=given.batch_size,
    learning_rate=given.learning_rate,
    warmup_steps=0.1,
    batch_sampler=BatchSamplers.NO_DUPLICATES,
    seed=given.seed,
    save_strategy="no",
    logging_strategy="steps",
    logging_steps=1,
    report_to="none",
    use_cpu=True,
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
trainer = SentenceTransformerTrainer(
    model=model, args=arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
)
started = time.perf_counter()
trainer.train()
seconds = time.perf_counter() - started
model.save_pretrained(given.output)
parameters = list(model.parameters())
trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(
    json.dumps(
        {
            "train": seconds,
            "trainable": trained,
            "parameters": sum(parameter.numel() for parameter in parameters),
            "losses": losses,
        }
    )
)
