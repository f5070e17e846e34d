"""config.json and the shard index, where a merge changes something in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.handmade import HIDDEN, VOCABULARY, bert_shapes, load_json, lora_tensors, write_adapter, write_base
from helpers.merging import merged
from ingraft.adapter import open_adapter
from ingraft.base_model import open_base
from ingraft.config_files import config_changes
from ingraft.plan import plan_merge

INDEX = "model.safetensors.index.json"


def config_after(tmp_path: Path, config: dict[str, Any], *options: str, dtype: torch.dtype = torch.float32) -> Any:
    base = write_base(tmp_path / "base", config=config, dtype=dtype)
    output = merged(write_adapter(tmp_path / "adapter", base), *options)
    return load_json(output / "config.json")


def test_nothing_changes_nothing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "config.json").write_text((base / "config.json").read_text() + "\n\n")
    adapter = write_adapter(tmp_path / "adapter", base)

    assert plan_merge(adapter).written == ()
    assert plan_merge(adapter, dtype="float32").written == ()
    assert (merged(adapter) / "config.json").read_bytes() == (base / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({}, {"dtype": "bfloat16"}),
        (
            {"dtype": "float32", "text_config": {"dtype": "float32", "x": 1}},
            {"dtype": "bfloat16", "text_config": {"dtype": "bfloat16", "x": 1}},
        ),
    ],
    ids=["dtype", "torch_dtype", "neither", "nested"],
)
def test_dtype(before: dict[str, Any], after: dict[str, Any], tmp_path: Path) -> None:
    found = config_after(tmp_path, before, "--dtype", "bfloat16", "--layout", "keep")

    expected = load_json(tmp_path / "base" / "config.json")
    assert found == {**expected, **after}


def test_grown_vocabulary(tmp_path: Path) -> None:
    """The tokenizer got words before training: the embedding in the adapter has more rows than the base's."""
    base = write_base(tmp_path / "base")
    grown = torch.randn(VOCABULARY + 3, HIDDEN)
    tensors = lora_tensors(["encoder.layer.0.attention.self.query"], bert_shapes())
    tensors["base_model.model.embeddings.word_embeddings.weight"] = grown
    config = {"target_modules": ["layer.0.attention.self.query"], "modules_to_save": ["word_embeddings"]}
    adapter = write_adapter(tmp_path / "adapter", base, tensors=tensors, **config)

    output = merged(adapter)

    from safetensors.torch import load_file

    assert load_json(output / "config.json")["vocab_size"] == VOCABULARY + 3
    assert torch.equal(load_file(output / "model.safetensors")["embeddings.word_embeddings.weight"], grown)


def test_index(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=3)
    adapter = write_adapter(tmp_path / "adapter", base)
    before = load_json(base / INDEX)

    as_it_is = load_json(merged(adapter) / INDEX)
    half = load_json(merged(adapter, "--dtype", "float16") / INDEX)

    assert as_it_is == before
    assert half["weight_map"] == before["weight_map"]
    assert half["metadata"]["total_size"] * 2 == before["metadata"]["total_size"]


def test_index_counts_what_was_added(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=2)
    tensors = lora_tensors(["encoder.layer.0.attention.self.query"], bert_shapes())
    tensors["base_model.model.classifier.weight"] = torch.randn(3, HIDDEN)
    config = {"target_modules": ["layer.0.attention.self.query"], "modules_to_save": ["classifier"]}

    found = load_json(merged(write_adapter(tmp_path / "adapter", base, tensors=tensors, **config)) / INDEX)

    before = load_json(base / INDEX)
    assert found["weight_map"].keys() == {*before["weight_map"], "classifier.weight"}
    assert found["metadata"]["total_size"] == before["metadata"]["total_size"] + 3 * HIDDEN * 4


def test_cut_tie_is_said_at_the_top_and_where_it_was_said(tmp_path: Path) -> None:
    """transformers reads the one or the other, by the class."""
    config = {"text_config": {"tie_word_embeddings": True}}
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base", config=config))

    (written,) = config_changes("", open_base(open_adapter(adapter), None), (), None, untied=True)

    found = json.loads(written.text)
    assert found["tie_word_embeddings"] is False
    assert found["text_config"] == {"tie_word_embeddings": False}
