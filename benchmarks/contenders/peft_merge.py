"""The usual way: load the base, load the adapter onto it, merge, save. Arguments: BASE ADAPTER OUTPUT."""

from __future__ import annotations

import sys

from peft import PeftModel
from transformers import AutoModel

base, adapter, output = sys.argv[1:]
model = AutoModel.from_pretrained(base)
merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
merged.save_pretrained(output)
