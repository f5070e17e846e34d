"""Which class loads a base model, and an instance of it that has shapes but no numbers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput, first_line

_INSTALL = "Install it with: pip install 'ingraft[verify]'"


def build_meta_model(model: BaseModel, *, trust_remote_code: bool, head: bool) -> Any:
    """The model as Sentence Transformers would load it, on the meta device."""
    folder = model.layout.transformer_folder
    remote = model.config.get("auto_map")
    if remote and not trust_remote_code:
        raise UnusableInput(
            f"{model.name} is a model with code of its own, and its tensors cannot be matched by their names alone.",
            hint="If you trust that code, pass --trust-remote-code.",
        )
    try:
        import torch
        from transformers import AutoConfig
    except ImportError:
        raise UnusableInput(f"Matching the names of {model.name} needs transformers.", hint=_INSTALL) from None
    with _quiet(), torch.device("meta"):
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
            config._attn_implementation = "eager"
            return _instance(config, folder, model.task, head, trust_remote_code)
        except UnusableInput:
            raise
        except Exception as error:  # whatever a model's class raises for its config
            reason = first_line(error)
            raise UnusableInput(f"transformers cannot build {model.name}: {reason}") from None


def _instance(config: Any, folder: Path, task: str, head: bool, trust_remote_code: bool) -> Any:
    import transformers

    if head:
        for architecture in getattr(config, "architectures", None) or []:
            model_class = getattr(transformers, architecture, None)
            if model_class is not None:
                return model_class(config)
    if task == "feature-extraction":
        encoder = _encoder_class(config)
        if encoder is not None:
            return encoder(config)
    if task == "retrieval":
        from sentence_transformers.base.modules.transformer import _resolve_retrieval_model_class

        auto: Any = _resolve_retrieval_model_class(config)
    else:
        auto = {
            "sequence-classification": transformers.AutoModelForSequenceClassification,
            "text-generation": transformers.AutoModelForCausalLM,
            "fill-mask": transformers.AutoModelForMaskedLM,
            "any-to-any": getattr(transformers, "AutoModelForMultimodalLM", transformers.AutoModel),
        }.get(task, transformers.AutoModel)
    if hasattr(auto, "from_config"):
        return auto.from_config(config, trust_remote_code=trust_remote_code)
    return auto(config)


def _encoder_class(config: Any) -> Any:
    """The encoder-only class that Sentence Transformers takes for an encoder-decoder config, or None."""
    if not any(hasattr(config, name) for name in ("num_decoder_layers", "decoder_layers", "decoder")):
        return None
    import importlib

    try:
        from sentence_transformers.base.modules.transformer import _ENCODER_ONLY_MODELS
    except ImportError:
        raise UnusableInput("Encoder-decoder models need sentence-transformers.", hint=_INSTALL) from None
    for config_class, module, name in _ENCODER_ONLY_MODELS:
        if isinstance(config, config_class):
            return getattr(importlib.import_module(module), name)
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers logs hints about configs that do not matter here."""
    import warnings

    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
