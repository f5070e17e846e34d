"""A merge at the end of somebody's own training script, as a callback of the trainer."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ingraft.hub import expanded
from ingraft.live_merge import check_places, merge_trained
from ingraft.pipeline import MergeResult


class MergeCallback(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """When a Sentence Transformers trainer is done: keep the adapter, merge it, prove the merged model.

    trainer = SentenceTransformerTrainer(model=model, …, callbacks=[ingraft.MergeCallback("merged/")])

    The arguments are those of `merge_trained`. A model that the trainer has set back to its best checkpoint is merged
    as that. One process merges, whatever their number. `result` is None until then. Outputs that are in use are refused
    before the training. An error (UnusableInput, CheckFailed) ends `trainer.train()`; the model is still in memory.
    """

    def __init__(self, output: str | Path, **options: Any) -> None:
        inspect.signature(merge_trained).bind(None, output, **options)  # TypeError now, not after the training
        self.output = expanded(output)
        self.options = options
        self.result: MergeResult | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            places = {name: self.options[name] for name in ("adapter_dir", "base", "overwrite") if name in self.options}
            check_places(model, self.output, **places)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.result = merge_trained(model, self.output, **self.options)
