"""Which row of LoRA applies, and what the config and the tensors must agree on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind, Setting, Target
from ingraft.methods.table import method_for

# What peft writes into every config, whether it means anything or not.
LEFT_OVER: Mapping[str, Any] = {
    "init_lora_weights": True, "loftq_config": {}, "eva_config": None, "corda_config": None, "lora_ga_config": None,
    "use_dora": False, "use_bdlora": None, "velora_config": None, "monteclora_config": None, "kasa_config": None,
    "arrow_config": None, "alora_invocation_tokens": None, "use_qalora": False, "qalora_group_size": 16,
    "layer_replication": None, "megatron_config": None, "quantization_config": {"load_in_4bit": True},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name", "route"),
    [
        ({}, "LoRA", "streamed"),
        *(
            ({"init_lora_weights": start}, "LoRA", "streamed")
            for start in (False, "gaussian", "eva", "orthogonal", "mica")
        ),
        ({"target_parameters": ["experts.up"]}, "LoRA", "streamed"),
        ({"use_qalora": True}, "LoRA", "streamed"),
        ({"use_rslora": True}, "rsLoRA", "streamed"),
        ({"use_rslora": True, "use_dora": True}, "DoRA", "streamed"),
        ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA", "streamed"),
        ({"velora_config": {}}, "VeLoRA", "streamed"),
        ({"monteclora_config": {"num_samples": 8}}, "MonteCLoRA", "streamed"),
        ({"kasa_config": {}}, "KaSA", "streamed"),
        ({"init_lora_weights": "pissa"}, "PiSSA", "streamed"),
        ({"init_lora_weights": "pissa", "velora_config": {}}, "PiSSA", "streamed"),
        ({"init_lora_weights": "OLoRA"}, "OLoRA", "streamed"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "PiSSA or OLoRA with another variant", "in-memory"),
        ({"init_lora_weights": "olora", "use_bdlora": {}}, "PiSSA or OLoRA with another variant", "in-memory"),
        ({"init_lora_weights": "pissa_niter_16"}, "PiSSA by fast SVD", "refused"),
        ({"init_lora_weights": "pissa_niter_16", "use_dora": True}, "PiSSA by fast SVD", "refused"),
        ({"init_lora_weights": "corda"}, "CorDA", "refused"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA", "refused"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "LoftQ", "refused"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA", "refused"),
        ({"arrow_config": {"top_k": 2}}, "Arrow", "refused"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "LoRA with replicated layers", "refused"),
    ],
)
def test_the_config_chooses_the_row(config: Mapping[str, Any], name: str, route: str) -> None:
    method = method_for({"peft_type": "LORA", **LEFT_OVER, **config})
    assert (method.name, method.route) == (name, route)


def settings(
    config: Mapping[str, Any],
    shape: tuple[int, int] = (6, 8),
    kind: LayerKind = "linear",
    module: str = "layer.1.query",
    **tensors: tuple[int, ...],
) -> dict[str, Setting]:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}
    target = Target(module, kind, shape, tensors)
    return method_for(config).settings(config, target, [target])


A, B = (4, 8), (6, 4)


def test_scale_is_alpha_over_the_rank_or_its_root() -> None:
    assert settings({}, lora_A=A, lora_B=B) == {"scale": 2.0}
    assert settings({"use_rslora": True}, lora_A=A, lora_B=B) == {"scale": 4.0}
    assert settings({"use_rslora": True, "rank_pattern": {"query": 2}}, lora_A=(2, 8), lora_B=(6, 2)) == {
        "scale": 8 / math.sqrt(2)
    }


def test_the_first_pattern_that_fits_the_end_of_the_path_counts() -> None:
    patterns = {"rank_pattern": {"uery": 1, "1.query": 2, "query": 3}, "alpha_pattern": {r"layer\.\d+\.query": 5}}
    assert settings(patterns, lora_A=(2, 8), lora_B=(6, 2)) == {"scale": 2.5}


@pytest.mark.parametrize(
    ("config", "tensors", "complaint"),
    [
        ({}, {"lora_A": (3, 8), "lora_B": (6, 3)}, r"layer\.1\.query: lora_A has rank 3, by .* it is 4"),
        ({"rank_pattern": {"query": 2}}, {"lora_A": A, "lora_B": B}, "rank 4, by .* it is 2"),
        ({}, {"lora_A": (4, 9), "lora_B": B}, r"lora_A has the shape \[4, 9\], expected \[4, 8\]"),
        ({}, {"lora_A": A, "lora_B": (7, 4)}, r"lora_B has the shape \[7, 4\], expected \[6, 4\]"),
        ({}, {"lora_A": A}, "no lora_B"),
        ({}, {"lora_B": B}, "no lora_A"),
        ({"use_dora": True}, {"lora_A": A, "lora_B": B}, "no lora_magnitude_vector"),
        ({"use_dora": True}, {"lora_A": A, "lora_B": B, "lora_magnitude_vector": (8,)}, r"\[8\], expected \[6\]"),
        ({"kasa_config": {}}, {"lora_A": A, "lora_B": B}, "no lora_diag"),
        ({"kasa_config": {}, "r": 6}, {"lora_A": (6, 8), "lora_B": (6, 6), "lora_diag": (6,)}, "leaves nothing"),
        ({"use_qalora": True, "qalora_group_size": 2}, {"lora_A": (4, 4), "lora_B": B}, "GPTQ"),
        ({"use_bdlora": {"target_modules_bd_a": ["q"], "nblocks": 2}}, {"lora_A": A, "lora_B": B}, r"\[4, 4\]"),
        ({"init_lora_weights": "pissa", "r": 9}, {"lora_A": (9, 8), "lora_B": (6, 9)}, "rank 9, by .* it is 6"),
        ({"r": 0}, {"lora_A": A, "lora_B": B}, "expected a positive integer"),
    ],
)
def test_tensors_must_fit_the_config(
    config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], complaint: str
) -> None:
    with pytest.raises(UnusableInput, match=complaint):
        settings(config, **tensors)


def test_convolutions_fit_flattened_and_grouped_ones_not_at_all() -> None:
    kernel = {"lora_A": (4, 2, 2, 2), "lora_B": (6, 4, 1, 1)}
    assert settings({}, kind="conv", **kernel) == {"scale": 2.0}
    with pytest.raises(UnusableInput, match="convolution in 2 groups"):
        settings({}, shape=(6, 4), kind="conv", lora_A=(4, 2, 2, 2), lora_B=(6, 2, 1, 1))


def test_embeddings_lie_the_other_way_round() -> None:
    assert settings({}, (11, 6), "embedding", lora_embedding_A=(4, 11), lora_embedding_B=(6, 4)) == {"scale": 2.0}
    with pytest.raises(UnusableInput, match=r"lora_embedding_A has the shape \[4, 6\], expected \[4, 11\]"):
        settings({}, (11, 6), "embedding", lora_embedding_A=(4, 6), lora_embedding_B=(11, 4))


def test_stacks_of_experts_are_counted() -> None:
    stack = {"lora_A": (12, 8), "lora_B": (6, 12)}
    config = {"target_parameters": ["up"]}
    assert settings(config, (3, 48), **stack) == {"scale": 2.0, "experts": 3}
    assert settings(config, lora_A=A, lora_B=B) == {"scale": 2.0}
    with pytest.raises(UnusableInput, match=r"lora_A has the shape \[8, 8\], expected \[12, 8\]"):
        settings(config, (3, 48), lora_A=(8, 8), lora_B=(6, 8))


@pytest.mark.parametrize("wanted", [[5, 0], {"other": [1], "words": [5, 0]}])
def test_trained_tokens_come_from_the_config(wanted: Any) -> None:
    config = {"trainable_token_indices": wanted}
    found = settings(config, (11, 6), "embedding", "model.words", trainable_tokens_delta=(2, 6))
    assert found == {"indices": (5, 0)}


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        (None, "has nothing for model.words"),
        ({"other": [1]}, "has nothing for model.words"),
        ([1, 2, 3], r"\[2, 6\], expected \[3, 6\]"),
        ([1, 11], "trained token 11, but the base has 11 tokens"),
        ([1, -1], "trained token -1"),
    ],
)
def test_trained_tokens_must_fit_the_embedding(wanted: Any, complaint: str) -> None:
    config = {"trainable_token_indices": wanted}
    with pytest.raises(UnusableInput, match=complaint):
        settings(config, (11, 6), "embedding", "model.words", trainable_tokens_delta=(2, 6))
