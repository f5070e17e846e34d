"""Write an adapter directory that every loader understands, and look whether it is complete."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.adapted import load_adapted
from ingraft.errors import CheckFailed
from ingraft.training.convert import convert
from ingraft.training.methods import TrainedMethod
from ingraft.training.model import transformer_of
from ingraft.verification.texts import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

# Relative, of embeddings. In float32 an adapter gives some 1e-6 after a round trip; half precision rounds the base too.
_LIMIT = 1e-3
_HALF_LIMIT = 3e-2

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


def forget_figures(model: SentenceTransformer) -> None:
    """Keep figures that were taken on the way out of the model card."""
    model.model_card_data.eval_results_dict = {}
    model.model_card_data.training_logs = []


def save_adapter(
    model: SentenceTransformer,
    folder: Path,
    method: TrainedMethod,
    base: Path,
    initial: Mapping[str, Tensor],
    *,
    trust_remote_code: bool = False,
) -> None:
    """The adapter and the modules around the transformer, as Sentence Transformers saves them.

    `initial` are the matrices that a method to be converted began with. CheckFailed when the file on disk has not
    every trained tensor of a LoRA adapter, or, of another one, does not give the trained model's embeddings.
    """
    card = model.model_card_data
    card.widget = []
    for rows in card.train_datasets:
        rows.pop("examples", None)
        rows.pop("examples_table", None)
    model.save_pretrained(str(folder))
    if method.is_lora:
        _check_complete(model, folder)
    if method.converted:
        convert(folder, initial)
    if method.converted or not method.is_lora:
        _check_loaded(model, folder, base, trust_remote_code)
    _open_to_others(folder)


def _check_complete(model: SentenceTransformer, folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        names = list(file.keys())
        saved = sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    trained = sum(weight.numel() for weight in transformer_of(model).parameters() if weight.requires_grad)
    if saved != trained:
        raise CheckFailed(f"The adapter was not saved whole: {saved:,} of {trained:,} trained parameters are there.")


def _check_loaded(model: SentenceTransformer, folder: Path, base: Path, trust_remote_code: bool) -> None:
    """The adapter on disk, put onto the base, embeds texts as the trained model does."""
    import numpy

    from ingraft.verification.encoding import outputs

    loaded = load_adapted(folder, base, trust_remote_code=trust_remote_code)
    expected, found = (outputs(live, type(live).__name__, TEXTS[:8]).rows for live in (model, loaded))
    half = any(parameter.element_size() == 2 for parameter in model.parameters())
    error = float(numpy.linalg.norm(found - expected) / numpy.linalg.norm(expected))
    if not error <= (_HALF_LIMIT if half else _LIMIT):
        raise CheckFailed(
            f"The saved adapter is not what was trained: embeddings differ by {100 * error:.2g} %.",
            hint="Please report this as a bug of ingraft, or train with --method lora.",
        )


def _open_to_others(folder: Path) -> None:
    """The permissions that any new file gets; safetensors makes its files readable for their owner only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
