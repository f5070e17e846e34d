"""When the running model is asked, and when it need not be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from helpers.models import lora_config, plain_adapter, plain_base, sentence_adapter, sentence_base
from ingraft.naming import find, meta
from ingraft.plan import plan_merge


@pytest.mark.parametrize("model_type", sorted(find.WITHOUT_TIES))
def test_bodies_that_share_nothing(model_type: str) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type))

    parameters = [id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)]
    assert not model.all_tied_weights_keys
    assert len(set(parameters)) == len(parameters)
    assert not any(hasattr(module, "embed_scale") for module in model.modules())
    assert model.get_output_embeddings() is None


@pytest.mark.parametrize(
    ("architecture", "of_sentences", "asked"),
    [("qwen3", True, False), ("bert", True, False), ("bert", False, True), ("gpt2", True, True)],
)
def test_who_is_asked_for_ties_of_an_embedding(
    architecture: str, of_sentences: bool, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plain transformers directory any class may be meant, and of other types the body may share its embedding."""
    target = {"qwen3": "embed_tokens", "bert": "word_embeddings", "gpt2": "wte"}[architecture]
    base = sentence_base(architecture) if of_sentences else plain_base(architecture)
    config = lora_config(architecture, target_modules=[*lora_config(architecture).target_modules, target])
    adapter = sentence_adapter(base, config) if of_sentences else plain_adapter(base, config)
    calls: list[object] = []
    real = meta.runtime_model

    def noted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(meta, "runtime_model", noted)
    plan_merge(adapter)

    assert bool(calls) == asked
