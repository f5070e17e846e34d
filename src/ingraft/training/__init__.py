"""Fine-tune a Sentence Transformers model with a LoRA adapter: `train(TrainingConfig(...))`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingraft.training.config import TrainingConfig
    from ingraft.training.evaluation import evaluate
    from ingraft.training.facts import TrainingResult
    from ingraft.training.run import train
    from ingraft.training.tasks import RetrievalTask, SimilarityTask

__all__ = ["RetrievalTask", "SimilarityTask", "TrainingConfig", "TrainingResult", "evaluate", "train"]

_HOME = {
    "RetrievalTask": "tasks",
    "SimilarityTask": "tasks",
    "TrainingConfig": "config",
    "TrainingResult": "facts",
    "evaluate": "evaluation",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the command line needs the config alone to print its help."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
