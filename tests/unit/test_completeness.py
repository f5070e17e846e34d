"""An adapter file that lost layers is found out by the layers that its config targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from helpers.handmade import bert_shapes, change_tensors, lora_tensors, write_adapter, write_base
from ingraft.completeness import is_targeted
from ingraft.errors import UnusableInput
from ingraft.plan import plan_merge


def plan(tmp_path: Path, modules: list[str], **config: Any) -> None:
    base = write_base(tmp_path / "base")
    plan_merge(write_adapter(tmp_path / "adapter", base, tensors=lora_tensors(modules, bert_shapes()), **config))


QUERIES = [f"encoder.layer.{n}.attention.self.query" for n in (0, 1)]


def test_all_layers(tmp_path: Path) -> None:
    plan(tmp_path, QUERIES, target_modules=["query"])


def test_missing_layer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=re.escape(f"no tensors for {QUERIES[1]}") + r".*1 of 2 modules"):
        plan(tmp_path, QUERIES[:1], target_modules=["query"])


def test_missing_module_of_a_layer(tmp_path: Path) -> None:
    values = [name.replace("query", "value") for name in QUERIES]

    with pytest.raises(UnusableInput, match=re.escape(values[0])):
        plan(tmp_path, [*QUERIES, values[1]], target_modules=["query", "value"])


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["query"], "layers_to_transform": [0]},
        {"target_modules": ["query"], "layers_to_transform": 0, "layers_pattern": "layer"},
        {"target_modules": r".*layer\.0\..*query"},
        {"target_modules": ["layer.0.attention.self.query"]},
        {"target_modules": ["query"], "exclude_modules": [QUERIES[1]]},
        {"target_modules": ["query"], "exclude_modules": r".*\.1\..*"},
    ],
    ids=["layers", "one layer", "pattern", "names", "excluded name", "excluded pattern"],
)
def test_layers_left_out_on_purpose(config: dict[str, Any], tmp_path: Path) -> None:
    plan(tmp_path, QUERIES[:1], **config)


def test_base_that_lost_a_bias(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base, tensors=lora_tensors(QUERIES, bert_shapes()))
    change_tensors(base / "model.safetensors", {f"{QUERIES[1]}.bias": None})

    with pytest.raises(UnusableInput, match=re.escape(f"has no {QUERIES[1]}.bias, although the other layers have one")):
        plan_merge(adapter)


def test_base_without_biases(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(
        tmp_path / "adapter", base, tensors=lora_tensors(QUERIES, bert_shapes()), target_modules=["query"]
    )
    change_tensors(base / "model.safetensors", {f"{module}.bias": None for module in QUERIES})

    assert plan_merge(adapter).count("edit") == 2


MODULES = [
    "encoder.layer.0.attention.self.query",
    "encoder.layer.11.attention.self.query",
    "bert.encoder.layer.1.attention.self.value",
    "model.layers.3.mlp.down_proj",
    "layers.0.q_proj",
    "h.1.attn.c_attn",
    "model.layers.1.mlp.experts.0.w1",
    "pooler.dense",
    "query",
]
CONFIGS: list[dict[str, Any]] = [
    {"target_modules": ["query"]},
    {"target_modules": ["query", "c_attn", "pooler.dense"]},
    {"target_modules": r".*\.(query|value)"},
    {"target_modules": "query"},
    {"target_modules": ["query", "value"], "layers_to_transform": [0, 1]},
    {"target_modules": ["query", "value"], "layers_to_transform": 1},
    {"target_modules": ["query", "value"], "layers_to_transform": [0], "layers_pattern": "layer"},
    {"target_modules": ["down_proj", "q_proj"], "layers_to_transform": [0, 3], "layers_pattern": ["layers", "h"]},
    {"target_modules": ["query", "value"], "exclude_modules": ["encoder.layer.0.attention.self.query"]},
    {"target_modules": ["query", "dense"], "exclude_modules": r".*pooler.*"},
    {"target_modules": ["query", "dense"], "modules_to_save": ["pooler", "layer.0"]},
    {"target_modules": ["query", "w1"], "layers_to_transform": [0]},
    {"target_modules": ["query", "w1"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
    {"target_modules": ["query"], "layers_to_transform": []},
    {"target_modules": ["pooler.dense", "query"], "layers_to_transform": [7]},
    {"target_modules": ["query", "dense"], "modules_to_save": ["layer.1", "pool.r"]},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("module", MODULES)
def test_rule_is_pefts(config: dict[str, Any], module: str) -> None:
    assert is_targeted(config, module) == bool(check_target_module_exists(LoraConfig(**config), module))


def test_no_regular_expression_targets_nothing() -> None:
    assert not is_targeted({"target_modules": "(query"}, "query")
