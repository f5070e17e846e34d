"""PEFT's config with the live model's exact names: rules and patterns of another class, decided for each module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.handmade import write_adapter
from ingraft.adapted.config import peft_config
from ingraft.adapter import Adapter, open_adapter
from ingraft.errors import UnusableInput

# As the adapter was trained → as the model is loaded.
MODULES = {
    "bert.encoder.layer.0.attention.self.query": "encoder.layer.0.attention.self.query",
    "bert.encoder.layer.1.attention.self.query": "encoder.layer.1.attention.self.query",
    "bert.encoder.layer.1.attention.self.value": "encoder.layer.1.attention.self.value",
}
FIRST, SECOND, THIRD = MODULES.values()


def adapter(folder: Path, **config: Any) -> Adapter:
    tensors = {"base_model.model.q.lora_A.weight": torch.ones(1, 1)}
    return open_adapter(write_adapter(folder, "base", tensors=tensors, **config))


def rank_at(config: Any, module: str) -> int:
    """The rank that PEFT gives to a module."""
    from peft.utils.other import get_pattern_key

    rank: int = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), module), config.r)
    return rank


def test_names_are_exact_and_rules_are_gone(tmp_path: Path) -> None:
    rules = {
        "target_modules": ["query"],
        "exclude_modules": ["key"],
        "layers_to_transform": [1],
        "layers_pattern": "layer",
        "task_type": "SEQ_CLS",
        "modules_to_save": ["classifier"],
        "something_from_the_future": 1,
    }

    config = peft_config(adapter(tmp_path, **rules), MODULES, modules_to_save=["classifier"])

    assert config.target_modules == set(MODULES.values())
    assert (config.exclude_modules, config.layers_to_transform, config.layers_pattern) == (None, None, None)
    assert (config.task_type, config.modules_to_save, config.inference_mode) == (None, ["classifier"], True)


def test_ranks_follow_the_names_that_were_trained(tmp_path: Path) -> None:
    """The key names the training class's full path, which the live model does not have."""
    pattern = {"bert.encoder.layer.0.attention.self.query": 2, "value": 3}

    config = peft_config(adapter(tmp_path, rank=8, rank_pattern=pattern), MODULES)

    assert [rank_at(config, module) for module in MODULES.values()] == [2, 8, 3]


def test_a_rank_is_not_given_to_a_longer_name_with_the_same_end(tmp_path: Path) -> None:
    modules = {"q": "q", "inner.q": "inner.q"}

    config = peft_config(adapter(tmp_path, rank=8, rank_pattern={"^q": 2}), modules)

    assert (rank_at(config, "q"), rank_at(config, "inner.q")) == (2, 8)


def test_older_patterns_match_below_another_module_only(tmp_path: Path) -> None:
    settings = {"peft_type": "FOURIERFT", "n_frequency": 30, "n_frequency_pattern": {"value": 7, FIRST: 9}}

    config = peft_config(adapter(tmp_path, **settings), MODULES)

    assert config.n_frequency_pattern == {FIRST: 9, THIRD: 7}


def test_pruned_ranks_of_adalora_name_the_live_modules(tmp_path: Path) -> None:
    trained = next(iter(MODULES))
    settings = {"peft_type": "ADALORA", "total_step": 10, "rank_pattern": {f"{trained}.lora_E": [True, False]}}

    config = peft_config(adapter(tmp_path, **settings), MODULES)

    assert config.rank_pattern == {f"{FIRST}.lora_E": [True, False]}


def test_feedforward_modules_are_those_that_the_rule_chose(tmp_path: Path) -> None:
    settings = {"peft_type": "IA3", "target_modules": ["query", "value"], "feedforward_modules": ["self.value"]}

    config = peft_config(adapter(tmp_path, **settings), MODULES)

    assert config.feedforward_modules == {THIRD}
    assert config.target_modules == set(MODULES.values())


def test_token_indices_go_by_module(tmp_path: Path) -> None:
    indices = {"word_embeddings": [3, 5]}
    tokens = {"bert.embeddings.word_embeddings": "embeddings.word_embeddings"}

    config = peft_config(adapter(tmp_path, trainable_token_indices=indices), {}, tokens=tokens)

    assert config.trainable_token_indices == {"embeddings.word_embeddings": [3, 5]}
    assert config.target_modules == "dummy-target-modules"


def test_what_peft_does_not_take_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"peft does not take it: .*loftq_config"):
        peft_config(adapter(tmp_path, init_lora_weights="loftq", loftq_config={}), MODULES)
