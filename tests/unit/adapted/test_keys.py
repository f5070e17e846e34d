"""Adapter keys under their owners: by PEFT's own marks, whatever wrapper or adapter name stands in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.handmade import write_adapter
from ingraft.adapted.keys import AdapterKeys, SavedKey, split_keys, unwrapped
from ingraft.adapter import open_adapter
from ingraft.errors import UnusableInput


def keys_of(folder: Path, names: Sequence[str], **config: Any) -> AdapterKeys:
    tensors = {name: torch.ones(2, 2) for name in names}
    return split_keys(open_adapter(write_adapter(folder, "base", tensors=tensors, **config)))


def test_tensors_belong_to_the_module_before_the_methods_mark(tmp_path: Path) -> None:
    prefix = "base_model.model.encoder.layer.0.attention.self.query"

    found = keys_of(tmp_path, [f"{prefix}.lora_A.weight", f"{prefix}.lora_B.weight", f"{prefix}.lora_magnitude_vector"])

    assert found.tuned == {
        "encoder.layer.0.attention.self.query": {
            "lora_A.weight": f"{prefix}.lora_A.weight",
            "lora_B.weight": f"{prefix}.lora_B.weight",
            "lora_magnitude_vector": f"{prefix}.lora_magnitude_vector",
        }
    }
    assert (found.tokens, found.shared, found.saved) == ({}, {}, {})


@pytest.mark.parametrize(
    ("key", "tail"),
    [
        ("base_model.model.q.lora_A.default.weight", "lora_A.weight"),
        ("base_model.model._orig_mod.q.lora_A.weight", "lora_A.weight"),
        ("base_model.model.q.lora_embedding_A.default", "lora_embedding_A"),
    ],
)
def test_wrappers_and_the_adapters_name_are_no_part_of_a_name(tmp_path: Path, key: str, tail: str) -> None:
    assert keys_of(tmp_path, [key]).tuned == {"q": {tail: key}}


def test_shared_tensors_stand_above_the_model(tmp_path: Path) -> None:
    names = ["base_model.vera_A", "base_model.vera_B", "base_model.model.q.vera_lambda_d"]

    found = keys_of(tmp_path, names, peft_type="VERA")

    assert found.shared == {"vera_A": "base_model.vera_A", "vera_B": "base_model.vera_B"}
    assert found.tuned == {"q": {"vera_lambda_d": "base_model.model.q.vera_lambda_d"}}


def test_whole_parameters_keep_where_they_stand(tmp_path: Path) -> None:
    names = [
        "base_model.model.q.lora_A.weight",
        "base_model.model.q.base_layer.bias",
        "base_model.model.norm.bias",
        "base_model.model.classifier.modules_to_save.default.weight",
    ]

    found = keys_of(tmp_path, names)

    assert found.saved == {
        "q.bias": SavedKey(names[1], wrapped=True),
        "norm.bias": SavedKey(names[2], wrapped=False),
        "classifier.weight": SavedKey(names[3], wrapped=False),
    }


def test_biases_that_peft_writes_three_times(tmp_path: Path) -> None:
    """bias="all" and modules_to_save: the trained one counts, once; two trained ones must agree."""
    names = ["pooler.dense.bias", "pooler.modules_to_save.default.dense.bias", "pooler.original_module.dense.bias"]
    keys = [f"base_model.model.{name}" for name in names]

    found = keys_of(tmp_path / "same", ["base_model.model.q.lora_A.weight", *keys])

    assert found.saved.keys() == {"pooler.dense.bias"}
    assert {found.saved["pooler.dense.bias"].key, *found.repeats} == set(keys)
    assert found.saved["pooler.dense.bias"].key != keys[2]

    tensors = {keys[0]: torch.ones(2), keys[1]: torch.zeros(2)}
    differing = open_adapter(write_adapter(tmp_path / "other", "base", tensors=tensors))
    with pytest.raises(UnusableInput, match="are the same tensor with different numbers"):
        split_keys(differing)


def test_retrained_tokens_are_apart_from_the_method(tmp_path: Path) -> None:
    key = "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta"

    found = keys_of(tmp_path, [key, "base_model.model.q.lora_A.weight"])

    assert found.tokens == {"embed_tokens": {"token_adapter.trainable_tokens_delta": key}}
    assert found.modules == ("q",)


def test_wrapped_parameters_share_a_module(tmp_path: Path) -> None:
    names = ["base_model.model.mlp.experts.lora_A.weight", "base_model.model.mlp.experts.base_layer.lora_A.weight"]

    found = keys_of(tmp_path, names)

    assert set(found.tuned) == {"mlp.experts", "mlp.experts.base_layer"}
    assert found.modules == ("mlp.experts",)
    assert unwrapped("mlp.experts.base_layer.base_layer") == "mlp.experts"


def test_a_key_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not begin with base_model"):
        keys_of(tmp_path, ["prompt_embeddings"])


@pytest.mark.parametrize(
    ("kind", "message"), [("FROBNICATE", "does not know FROBNICATE"), ("PREFIX_TUNING_2", "does not know")]
)
def test_a_method_that_peft_lacks_is_refused(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        keys_of(tmp_path, ["base_model.model.q.lora_A.weight"], peft_type=kind)
