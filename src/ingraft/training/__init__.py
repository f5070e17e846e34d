"""Fine-tune a Sentence Transformers model with a LoRA adapter: `train(TrainingConfig(...))`."""

from __future__ import annotations

from ingraft.training.config import TrainingConfig
from ingraft.training.evaluation import RetrievalTask, SimilarityTask, evaluate
from ingraft.training.facts import TrainingResult
from ingraft.training.run import train

__all__ = ["RetrievalTask", "SimilarityTask", "TrainingConfig", "TrainingResult", "evaluate", "train"]
