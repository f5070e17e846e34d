"""nDCG@10 and accuracy@1 of a model or an adapter's directory on a retrieval task. Arguments: MODEL TASK, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sentence_transformers import SentenceTransformer

from ingraft.adapted import load_adapted
from ingraft.training.evaluation import evaluate
from ingraft.training.tasks import RetrievalTask

folder, task = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
is_adapter = (folder / "adapter_config.json").is_file()
model = load_adapted(folder) if is_adapter else SentenceTransformer(str(folder), device="cpu")
relevant = {query: set(documents) for query, documents in task["relevant"].items()}
print(json.dumps(evaluate(model, RetrievalTask(task["queries"], task["corpus"], relevant))))
