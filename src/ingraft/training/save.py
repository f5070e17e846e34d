"""Write an adapter directory that every loader understands, and look whether it is complete."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.errors import CheckFailed
from ingraft.training.model import transformer_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def keep_card_private(model: SentenceTransformer, base_name: str) -> None:
    """Keep out of the model card: rows of the user's data, the base model's figures, look-ups on the Hub."""
    card = model.model_card_data
    card.local_files_only = True
    card.generate_widget_examples = False
    card.widget = [{}]  # the trainer draws rows for an empty one; save_adapter empties it
    card.eval_results_dict = {}
    card.training_logs = []
    if not Path(base_name).is_absolute():
        card.base_model = base_name


def save_adapter(model: SentenceTransformer, folder: Path) -> None:
    """The adapter and the modules around the transformer, as Sentence Transformers saves them.

    CheckFailed when the file on disk has not every trained tensor of the transformer.
    """
    card = model.model_card_data
    card.widget = []
    for rows in card.train_datasets:
        rows.pop("examples", None)
        rows.pop("examples_table", None)
    model.save_pretrained(str(folder))
    _check_complete(model, folder)
    _open_to_others(folder)


def _check_complete(model: SentenceTransformer, folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        names = list(file.keys())
        saved = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    trained = sum(weight.numel() for weight in transformer_of(model).parameters() if weight.requires_grad)
    if saved != trained:
        raise CheckFailed(f"The adapter was not saved whole: {saved:,} of {trained:,} trained parameters are there.")


def _open_to_others(folder: Path) -> None:
    """The permissions that any new file gets; safetensors makes its files readable for their owner only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
