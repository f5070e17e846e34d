"""What the config and the tensors of turned, scaled and replaced weights must agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind, Setting, Target
from ingraft.methods.table import method_for


def settings(
    peft_type: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[int, ...]],
    shape: tuple[int, int] = (6, 8),
    kind: LayerKind = "linear",
) -> dict[str, Setting]:
    config = {"peft_type": peft_type, **config}
    target = Target("layer.1.query", kind, shape, tensors)
    return method_for(config).settings(config, target, [target])


def adalora(rank: int) -> dict[str, tuple[int, ...]]:
    return {"lora_A": (rank, 8), "lora_B": (6, rank), "lora_E": (rank, 1)}


def test_adalora_goes_by_the_rank_it_began_with() -> None:
    config = {"init_r": 4, "lora_alpha": 8, "rank_pattern": {"layer.1.query.lora_E": [True, False, True, False]}}
    assert settings("ADALORA", config, adalora(2)) == {"scale": 8 / 4.00001}
    assert settings("ADALORA", {**config, "rank_pattern": None}, adalora(4)) == {"scale": 8 / 4.00001}
    assert settings("ADALORA", {**config, "lora_alpha": 0}, adalora(2)) == {"scale": 2 / 4.00001}
    with pytest.raises(UnusableInput, match=r"lora_E has the shape \[4, 1\], expected \[2, 1\]"):
        settings("ADALORA", config, adalora(4))


@pytest.mark.parametrize(
    ("config", "shape", "size"),
    [
        ({}, (1, 28), 8),  # 32 is more than there is
        ({"oft_block_size": 4}, (2, 6), 4),
        ({"oft_block_size": 3}, (4, 1), 2),  # 2 and 4 are as near
        ({"oft_block_size": 0, "r": 4}, (4, 1), 2),
        ({"oft_block_size": 4, "block_share": True}, (1, 6), 4),
    ],
)
def test_oft_blocks_divide_the_input(config: Mapping[str, Any], shape: tuple[int, int], size: int) -> None:
    found = settings("OFT", config, {"oft_R": shape})
    assert found == {"block_size": size, "neumann_terms": 5, "longest": None}


def test_oft_exact_and_constrained() -> None:
    config = {"oft_block_size": 4, "use_cayley_neumann": False, "coft": True, "eps": 0.1}
    found = settings("OFT", config, {"oft_embedding_R": (2, 6)}, kind="embedding")
    assert found == {"block_size": 4, "neumann_terms": None, "longest": 0.1}


def test_boft_takes_the_number_of_factors_from_the_tensor() -> None:
    config = {"boft_block_size": 2, "boft_n_butterfly_factor": 1}
    for factors in (1, 2, 3):
        assert settings("BOFT", config, {"boft_R": (factors, 4, 2, 2), "boft_s": (6, 1)}) == {}


@pytest.mark.parametrize(
    ("peft_type", "config", "tensors", "complaint"),
    [
        ("OFT", {"oft_block_size": 4}, {"oft_R": (1, 28)}, r"\[1, 28\], expected \[2, 6\]"),
        ("OFT", {}, {}, "no oft_R"),
        ("BOFT", {"boft_block_size": 3}, {"boft_R": (1, 2, 3, 3), "boft_s": (6, 1)}, "does not divide"),
        ("BOFT", {"boft_block_size": 4}, {"boft_R": (1, 4, 2, 2), "boft_s": (6, 1)}, r"expected \[1, 2, 4, 4\]"),
        ("BOFT", {"boft_block_size": 4}, {"boft_R": (3, 2, 4, 4), "boft_s": (6, 1)}, "make no 3 butterfly factors"),
        ("BOFT", {"boft_block_size": 4}, {"boft_R": (1, 2, 4, 4), "boft_s": (8, 1)}, r"boft_s .* expected \[6, 1\]"),
        ("HRA", {"r": 2}, {"hra_u": (8, 4)}, r"\[8, 4\], expected \[8, 2\]"),
        ("ROAD", {"variant": "road_3"}, {}, "expected road_1, road_2 or road_4"),
        ("ROAD", {"group_size": 4}, {"road_theta": (3,), "road_alpha": (3,)}, "group_size 4 does not divide"),
        ("ROAD", {"group_size": 2}, {"road_theta": (6,), "road_alpha": (3,)}, r"\[6\], expected \[3\]"),
        ("IA3", {"feedforward_modules": ["query"]}, {"ia3_l": (6, 1)}, r"\[6, 1\], expected \[1, 8\]"),
        ("IA3", {"feedforward_modules": []}, {"ia3_l": (1, 8)}, r"\[1, 8\], expected \[6, 1\]"),
        ("OSF", {"effective_rank": 2}, {"osf_S_low": (3,)}, r"\[3\], expected \[4\]"),
        ("PSOFT", {"r": 4}, {"psoft_R": (4, 4)}, r"\[4, 4\], expected \[6\]"),
        ("PSOFT", {"r": 4}, {"psoft_R": (6,), "psoft_vector_a": (3,)}, r"\[3\], expected \[4\]"),
        ("TRAINABLE_TOKENS", {"token_indices": [1]}, {"trainable_tokens_delta": (2, 8)}, r"expected \[1, 8\]"),
    ],
)
def test_tensors_must_fit_the_config(
    peft_type: str, config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], complaint: str
) -> None:
    with pytest.raises(UnusableInput, match=complaint):
        settings(peft_type, config, tensors)


@pytest.mark.parametrize(
    ("names", "feedforward"),
    [(["query"], True), (["1.query"], True), (["key"], False), (".*query", True), ("query", False)],
)
def test_feedforward_modules_are_names_or_one_expression(names: Any, feedforward: bool) -> None:
    shape = (1, 8) if feedforward else (6, 1)
    assert settings("IA3", {"feedforward_modules": names}, {"ia3_l": shape}) == {"feedforward": feedforward}


def test_convolutions_whose_input_is_scaled_are_refused() -> None:
    tensors = {"ia3_l": (1, 2, 1, 1)}
    with pytest.raises(UnusableInput, match="convolution whose input"):
        settings("IA3", {"feedforward_modules": ["query"]}, tensors, kind="conv")


@pytest.mark.parametrize(
    ("config", "rank"),
    [
        ({}, 3),
        ({"effective_rank": 2}, 4),
        ({"effective_rank": 0.5}, 3),
        ({"effective_rank": 1.0}, 0),
        ({"effective_rank": 1}, 5),
        ({"effective_rank": 9}, 0),
        ({"effective_rank": 1, "rank_pattern": {"key": 3, "quer": 4}}, 2),
    ],
)
def test_osf_trains_what_the_effective_rank_leaves(config: Mapping[str, Any], rank: int) -> None:
    tensors = {"osf_U_low": (6, rank), "osf_S_low": (rank,), "osf_V_low": (rank, 8)}
    assert settings("OSF", config, tensors) == {}


def test_psoft_reads_its_series_only_where_it_is_used() -> None:
    config = {"r": 3, "cayley_neumann_eps": 0.5, "num_cayley_neumann_terms": 7}
    tensors = {"psoft_R": (3,)}
    plain = settings("PSOFT", config, tensors)
    assert (plain["neumann_terms"], plain["longest"]) == (None, None)
    series = settings("PSOFT", {**config, "use_cayley_neumann": True}, tensors)
    assert (series["neumann_terms"], series["longest"]) == (7, 0.5)
