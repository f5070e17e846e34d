"""`ingraft train`: an adapter from a file of texts."""

from __future__ import annotations

from ingraft.cli.config_options import options_of
from ingraft.cli.merge import Format
from ingraft.training.config import TrainingConfig


@options_of(TrainingConfig)
def train(config: TrainingConfig, format: Format) -> None:
    """Fine-tune a Sentence Transformers model with a LoRA adapter, and measure it before and after."""
    from ingraft.cli import show, show_training
    from ingraft.training.run import train as run

    with show_training.observer(human=format == "human") as observe:
        result = run(config, observe=observe)
    if format == "json":
        show.json(result.to_dict())
    else:
        show_training.result(result)
