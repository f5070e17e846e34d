"""The way to a whole Sentence Transformers model: load, merge inside, save. Arguments: BASE ADAPTER OUTPUT."""

from __future__ import annotations

import sys

from peft import PeftModel
from sentence_transformers import SentenceTransformer

base, adapter, output = sys.argv[1:]
model = SentenceTransformer(base, device="cpu")
model[0].model = PeftModel.from_pretrained(model[0].model, adapter).merge_and_unload()
model.save_pretrained(output)
