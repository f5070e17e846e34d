"""sentence_bert_config.json and config.json in the older names."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ingraft.portable.transformer import longest_input, model_config, sentence_config

TEXT = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def test_defaults_are_left_out() -> None:
    new = {"transformer_task": "feature-extraction", "modality_config": TEXT, "module_output_name": "token_embeddings"}

    assert sentence_config(new, 256, legacy=True) == {"max_seq_length": 256, "do_lower_case": False}


@pytest.mark.parametrize(
    "config",
    [
        {"modality_config": {**TEXT, "message": {"method": "forward", "method_output_name": "last_hidden_state"}}},
        {"module_output_name": "sentence_embedding"},
        {"transformer_task": "sequence-classification"},
        {"unpad_inputs": True},
    ],
    ids=str,
)
def test_what_is_no_default_stays(config: dict[str, Any]) -> None:
    assert sentence_config(config, 9, legacy=True) == {"max_seq_length": 9, **config, "do_lower_case": False}


@pytest.mark.parametrize("odd", [[""], {}, None, 3], ids=str)
def test_values_of_another_type_are_no_defaults(odd: Any) -> None:
    assert sentence_config({"transformer_task": odd}, 9, legacy=True)["transformer_task"] == odd
    assert longest_input({"max_position_embeddings": 8, "model_type": odd}, {}) == 8


@pytest.mark.parametrize(
    ("layers", "every"),
    [
        (["full_attention"], 3),
        (["full_attention", *["sliding_attention"] * 4], 5),
        (["full_attention", "full_attention"], 1),
        ([*["full_attention", *["sliding_attention"] * 19_999], *["full_attention"]], 20_000),
        (["full_attention", "sliding_attention", "full_attention", "full_attention"], None),
        (["sliding_attention", "full_attention"], None),
        ([3, []], None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_pattern_of_attention_is_found_at_once(layers: list[Any], every: int | None) -> None:
    started = time.process_time()

    found, _ = model_config({"model_type": "modernbert", "layer_types": layers})

    assert found.get("global_attn_every_n_layers") == every
    assert time.process_time() - started < 1


def test_a_stated_length_stays() -> None:
    assert sentence_config({"max_seq_length": 7, "do_lower_case": True}, 256, legacy=True) == {
        "max_seq_length": 7, "do_lower_case": True,
    }  # fmt: skip
    assert sentence_config({"max_seq_length": None}, 256, legacy=True)["max_seq_length"] == 256


def test_without_a_certain_length_nothing_is_added() -> None:
    assert sentence_config({}, None, legacy=True) == {}


@pytest.mark.parametrize(
    ("config", "tokenizer", "length"),
    [
        ({"max_position_embeddings": 512}, {"model_max_length": 256}, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": int(1e30)}, 512),
        ({"max_position_embeddings": 512}, {}, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, {}, 512),
        ({"max_position_embeddings": 512}, None, None),
        ({}, {"model_max_length": 256}, None),
        ({"max_position_embeddings": -1}, {"model_max_length": 256}, None),
    ],
)
def test_longest_input(config: dict[str, Any], tokenizer: dict[str, Any] | None, length: int | None) -> None:
    assert longest_input(config, tokenizer) == length


def test_dtype_under_both_names() -> None:
    found, added = model_config({"dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "other": {"x": 1}})

    assert (found["torch_dtype"], found["text_config"]["torch_dtype"], found["other"]) == ("bfloat16",) * 2 + (
        {"x": 1},
    )
    assert added == ["torch_dtype", "text_config.torch_dtype"]


def test_a_config_with_the_older_names_stays() -> None:
    config = {"torch_dtype": "float32", "rope_theta": 5.0, "rope_scaling": None}

    assert model_config(config) == (config, [])


def config_class(name: str, **settings: Any) -> Any:
    import transformers

    return getattr(transformers, name)(**settings)


YARN = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 32}
ROTARY = [
    ("Qwen3Config", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
    (
        "Qwen3Config",
        {"rope_parameters": YARN, "max_position_embeddings": 128},
        {"rope_theta": 5e5, "rope_scaling": {key: value for key, value in YARN.items() if key != "rope_theta"}},
    ),
    (
        "ModernBertConfig",
        {"num_hidden_layers": 6},
        {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "global_attn_every_n_layers": 3},
    ),
    (
        "ModernBertConfig",
        {"layer_types": ["full_attention", "sliding_attention"] * 2, "num_hidden_layers": 4},
        {"global_attn_every_n_layers": 2},
    ),
    ("Gemma3TextConfig", {"num_hidden_layers": 6}, {"rope_theta": 1000000.0, "rope_local_base_freq": 10000.0}),
    ("PhiConfig", {"partial_rotary_factor": 0.25}, {"rope_theta": 10000.0, "partial_rotary_factor": 0.25}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "older"), ROTARY, ids=lambda value: str(value)[:40])
def test_rotary_embeddings_under_their_older_names(name: str, settings: dict[str, Any], older: dict[str, Any]) -> None:
    """What the installed transformers saves gets the older names, and is read by it as before."""
    config = config_class(name, **settings)
    saved = json.loads(config.to_json_string(use_diff=False))

    found, added = model_config(saved)

    assert {key: found[key] for key in older} == older
    assert set(older) <= {*added, *saved}
    again = type(config).from_dict(json.loads(json.dumps(found)))
    assert again.rope_parameters == config.rope_parameters
    assert getattr(again, "layer_types", None) == getattr(config, "layer_types", None)


def test_activation_of_a_cross_encoder() -> None:
    found, added = model_config({}, "torch.nn.Tanh")

    assert found["sentence_transformers"] == {"activation_fn": "torch.nn.Tanh"}
    assert "sentence_transformers" in added


def test_portable_leaves_newer_keys() -> None:
    new = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}

    assert sentence_config(new, 256, legacy=False) == {"max_seq_length": 256, **new, "do_lower_case": False}
