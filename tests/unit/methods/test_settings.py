"""Values by module, and the messages for tensors that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.methods import settings
from ingraft.methods.method import Target
from ingraft.methods.settings import (
    below_pattern_value,
    check_divides,
    check_present,
    check_shape,
    largest,
    pattern_value,
    rank_of,
    scale_of,
    seed_of,
    terms_of,
)
from ingraft.methods.table import method_for


def target(module: str = "layer.0.query", shape: tuple[int, int] = (12, 8), **tensors: tuple[int, ...]) -> Target:
    return Target(module, "linear", shape, tensors)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, 8),
        (None, 8),
        ({"query": 4}, 4),
        ({"uery": 4}, 8),
        ({"layer.0.query": 4}, 4),
        ({"0.query": 4}, 4),
        ({"layer.0": 4}, 8),
        ({"key": 2, ".*query": 4, "query": 5}, 4),
        ({"query|key": 4}, 4),
        ({r"layer\.\d+\.query": 4}, 4),
    ],
)
def test_pattern_value(patterns: dict[str, int] | None, expected: int) -> None:
    assert pattern_value({"rank_pattern": patterns}, "rank_pattern", "layer.0.query", 8) == expected


def test_pattern_value_takes_a_whole_name() -> None:
    assert pattern_value({"rank_pattern": {"query": 4}}, "rank_pattern", "query", 8) == 4


def test_below_pattern_value_matches_below_another_module_or_exactly() -> None:
    config = {"p": {"query": 4, r"que.y": 5}}
    assert below_pattern_value(config, "p", "layer.0.query", 8) == 4
    assert below_pattern_value(config, "p", "query", 8) == 4
    assert below_pattern_value({"p": {r"que.y": 5}}, "p", "query", 8) == 8
    assert below_pattern_value({"p": {r"que.y": 5}}, "p", "layer.query", 8) == 5


def test_a_pattern_that_is_no_regular_expression_is_unusable() -> None:
    with pytest.raises(UnusableInput, match=r"rank_pattern has the key '\(query'"):
        pattern_value({"rank_pattern": {"(query": 4}}, "rank_pattern", "query", 8)


def test_scale_is_alpha_over_rank() -> None:
    config = {"r": 4, "alpha": 16, "alpha_pattern": {"key": 2}}
    assert rank_of(config, "query", 8) == 4
    assert scale_of(config, "query", 4, 8) == 4.0
    assert scale_of(config, "key", 4, 8) == 0.5
    assert scale_of({}, "key", 4, 8) == 2.0


@pytest.mark.parametrize("rank", [0, -1, "8", None, 2.5, True])
def test_ranks_that_are_none(rank: Any) -> None:
    with pytest.raises(UnusableInput, match=r"the rank of query is .*, expected a positive integer"):
        rank_of({"r": rank}, "query", 8)


def test_shapes_name_module_found_and_expected() -> None:
    check_shape(target(A=(4, 8)), "A", (4, 8))
    check_shape(target(), "A", (4, 8))
    with pytest.raises(UnusableInput, match=r"layer.0.query: A has the shape \[4, 9\], expected \[4, 8\]"):
        check_shape(target(A=(4, 9)), "A", (4, 8))


def test_lacking_tensors_are_named() -> None:
    check_present(target(A=(1,), B=(2,)), "A", "B")
    with pytest.raises(UnusableInput, match=r"layer.0.query has A but no B, C"):
        check_present(target(A=(1,)), "A", "B", "C")


def test_sides_that_a_number_does_not_divide() -> None:
    check_divides(target(), "block_size", 4, 12, 8)
    for divisor in (5, 0):
        with pytest.raises(UnusableInput, match=rf"block_size {divisor} does not divide"):
            check_divides(target(), "block_size", divisor, 12, 8)


def test_largest_covers_every_target() -> None:
    assert largest([target(shape=(12, 8)), target(shape=(4, 30))]) == (12, 30)


# A config, and tensors of a [12, 8] weight that do not fit it: what the message names.
WRONG: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "loha": ({"peft_type": "LOHA", "r": 4}, {"hada_w1_a": (12, 3)}, "hada_w1_a"),
    "loha-tucker": ({"peft_type": "LOHA", "r": 2}, {"hada_t1": (2, 2, 2, 2), "hada_w1_b": (2, 2)}, "hada_t2"),
    "lokr": ({"peft_type": "LOKR", "r": 4}, {"lokr_w1": (3, 2), "lokr_w2": (5, 4)}, "lokr_w1"),
    "lokr-half": ({"peft_type": "LOKR", "r": 4}, {"lokr_w1": (3, 2), "lokr_w2_a": (4, 4)}, "lokr_w2_b"),
    "lokr-rank": (
        {"peft_type": "LOKR", "r": 4},
        {"lokr_w1": (3, 2), "lokr_w2_a": (4, 3), "lokr_w2_b": (3, 4)},
        "lokr_w2_a",
    ),
    "vera": ({"peft_type": "VERA", "r": 4}, {"vera_lambda_b": (12,), "vera_lambda_d": (3,)}, "vera_lambda_d"),
    "pvera": ({"peft_type": "PVERA", "r": 4}, {"pvera_lambda_d": (4,)}, "pvera_lambda_d"),
    "randlora": ({"peft_type": "RANDLORA", "r": 4}, {"randlora_lambda": (4, 3)}, "randlora_lambda"),
    "vblora": (
        {"peft_type": "VBLORA", "r": 4, "vector_length": 4, "num_vectors": 9},
        {"vblora_logits_A": (4, 2, 8)},
        "vblora_logits_A",
    ),
    "vblora-length": ({"peft_type": "VBLORA", "r": 4, "vector_length": 5}, {}, "vector_length"),
    "vblora-topk": (
        {"peft_type": "VBLORA", "r": 4, "vector_length": 4, "save_only_topk_weights": True},
        {"vblora_logits_A": (4, 2, 256)},
        "vblora_logits_A_topk_indices",
    ),
    "unilora": (
        {"peft_type": "UNILORA", "r": 4, "save_indices": True},
        {"unilora_scales_B": (11, 4)},
        "unilora_scales_B",
    ),
    "delora": ({"peft_type": "DELORA", "r": 4}, {"delora_w_norm": (12,)}, "delora_w_norm"),
    "gralora": ({"peft_type": "GRALORA", "r": 4}, {"gralora_A": (2, 4, 3)}, "gralora_A"),
    "gralora-grid": ({"peft_type": "GRALORA", "r": 4, "gralora_k": 3}, {}, "gralora_k"),
    "gralora-hybrid": (
        {"peft_type": "GRALORA", "r": 4, "hybrid_r": 2},
        {"gralora_A": (2, 4, 4)},
        "gralora_A_general",
    ),
    "glora": ({"peft_type": "GLORA", "config_C": "none", "r": 4}, {"glora_A_X": (1,)}, "glora_A_Xd"),
    "glora-bias": (
        {"peft_type": "GLORA", "config_C": "none", "config_A_B": "constant", "config_D_E": "vector"},
        {"glora_A_X": (1,), "glora_B_X": (1,), "glora_D_X": (1,)},
        "glora_D_X",
    ),
    "hira": ({"peft_type": "HIRA"}, {"hira_A": (4, 8), "hira_B": (11, 4)}, "hira_B"),
    "hira-rank": ({"peft_type": "HIRA"}, {"hira_A": (4, 8), "hira_B": (12, 3)}, "hira_B"),
    "miss": ({"peft_type": "MISS", "r": 4}, {"miss_block": (4, 11)}, "miss_block"),
    "miss-mini": (
        {"peft_type": "MISS", "r": 4, "init_weights": "mini", "mini_r": 5},
        {"miss_block": (4, 5)},
        "mini_r",
    ),
    "miss-bat": ({"peft_type": "MISS", "r": 4, "init_weights": "bat"}, {"miss_block": (4, 12)}, "miss_block"),
    "fourierft": ({"peft_type": "FOURIERFT", "n_frequency": 9}, {"fourierft_spectrum": (8,)}, "spectrum"),
    "waveft": ({"peft_type": "WAVEFT", "n_frequency": 9}, {"waveft_spectrum": (8,)}, "spectrum"),
    "c3a": ({"peft_type": "C3A", "block_size": 5}, {"c3a_kernel": (1, 1, 5)}, "block_size"),
    "shira": ({"peft_type": "SHIRA", "r": 1}, {"shira_weight": (20,), "shira_indices": (2, 19)}, "shira_indices"),
    "supertuning": ({"peft_type": "SUPERTUNING"}, {"supertuning_values": (1,)}, "supertuning_values"),
    "supertuning-lora": ({"peft_type": "SUPERTUNING", "sparsity": 0.5, "r": 2}, {}, "supertuning_lora_A"),
    "deft": ({"peft_type": "DEFT", "r": 4}, {"deft_P": (12, 4)}, "deft_R"),
    "deft-method": (
        {"peft_type": "DEFT", "r": 4, "decomposition_method": "svd"},
        {"deft_P": (12, 4), "deft_R": (4, 8)},
        "decomposition_method",
    ),
    "peanut": ({"peft_type": "PEANUT", "r": 4}, {"peanut_A": (4, 8)}, "peanut_A"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_their_config_are_named(case: str) -> None:
    config, tensors, named = WRONG[case]
    wrong = target(**tensors)
    with pytest.raises(UnusableInput, match=named):
        method_for(config).settings(config, wrong, [wrong])


@pytest.mark.parametrize("terms", [-1, 1001, 10**12])
def test_series_that_takes_for_ever(terms: int) -> None:
    with pytest.raises(UnusableInput, match=r"num_cayley_neumann_terms is .*, expected 0 to 1000"):
        terms_of({"num_cayley_neumann_terms": terms})


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seed_that_torch_does_not_take(seed: int) -> None:
    with pytest.raises(UnusableInput, match=r"the_seed is .*, expected"):
        seed_of({"the_seed": seed}, "the_seed", 0)


def test_seeds_and_series_that_are_meant() -> None:
    assert (terms_of({}), terms_of({"num_cayley_neumann_terms": 1000})) == (5, 1000)
    assert (seed_of({}, "the_seed", 7), seed_of({"the_seed": 2**64 - 1}, "the_seed", 7)) == (7, 2**64 - 1)


def test_every_pattern_is_compiled_once() -> None:
    settings._compiled.cache_clear()
    config = {"rank_pattern": {f"layer.{number}": number for number in range(600)}}

    assert [pattern_value(config, "rank_pattern", f"layer.{number}", 8) for number in (1, 598, 599)] == [1, 598, 599]

    assert settings._compiled.cache_info().misses == 600
