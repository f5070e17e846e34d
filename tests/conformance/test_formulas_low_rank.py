"""Formulas of rows_low_rank and rows_shared against PEFT's unmerged forward."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from conformance.formula_harness import LINEAR, Case, below, check_row, config_of, layers, row_of
from ingraft.methods import rows_low_rank, rows_shared
from ingraft.methods.table import formula

ROWS = (*rows_low_rank.ROWS, *rows_shared.ROWS)
TURNED = {"turned": lambda: Conv1D(16, 8), "turned_square": lambda: Conv1D(8, 8)}
CONV = {
    "two": lambda: nn.Conv2d(16, 24, 3, padding=1),
    "one": lambda: nn.Conv1d(16, 24, 3),
    "point": lambda: nn.Conv2d(8, 12, 1),
    "line": lambda: nn.Conv1d(8, 12, 1),
}
GROUPED = {"grouped": lambda: nn.Conv2d(8, 12, 3, groups=2)}
OTHER = {"cube": lambda: nn.Conv3d(4, 6, 2), "embedding": lambda: nn.Embedding(11, 6)}


CASES: dict[str, Case] = {
    "loha": (peft.LoHaConfig, {"r": 3, "alpha": 5}, {**LINEAR, **CONV, **GROUPED}),
    "loha-patterns": (
        peft.LoHaConfig,
        {
            "r": 3,
            "alpha": 5,
            "rank_pattern": {"tall": 2, "w.*": 4},
            "alpha_pattern": {"block.two": 7, "one": 1},
        },
        {**LINEAR, **CONV},
    ),
    "loha-tucker": (peft.LoHaConfig, {"r": 3, "alpha": 5, "use_effective_conv2d": True}, {**LINEAR, **CONV}),
    "lokr-factored": (
        peft.LoKrConfig,
        {"r": 1, "alpha": 5, "decompose_both": True},
        {**LINEAR, **CONV, **GROUPED},
    ),
    "lokr-w1-whole": (peft.LoKrConfig, {"r": 1, "alpha": 5}, {**LINEAR, **CONV}),
    "lokr-whole": (peft.LoKrConfig, {"r": 8, "alpha": 5}, {**LINEAR, **CONV}),
    "lokr-tucker": (
        peft.LoKrConfig,
        {"r": 2, "alpha": 5, "decompose_both": True, "use_effective_conv2d": True, "decompose_factor": 2},
        {**LINEAR, **CONV},
    ),
    "lokr-patterns": (
        peft.LoKrConfig,
        {"r": 1, "decompose_factor": 4, "rank_pattern": {"tall": 9}, "alpha_pattern": {"wide": 3}},
        LINEAR,
    ),
    "vera": (peft.VeraConfig, {"r": 5}, {**LINEAR, **TURNED}),
    "vera-regrown": (
        peft.VeraConfig,
        {"r": 5, "save_projection": False, "projection_prng_key": 123},
        {**LINEAR, **TURNED},
    ),
    "pvera": (peft.PveraConfig, {"r": 5}, {**LINEAR, **TURNED}),
    "pvera-regrown": (peft.PveraConfig, {"r": 5, "save_projection": False}, {**LINEAR, **TURNED}),
    "randlora": (peft.RandLoraConfig, {"r": 3, "randlora_alpha": 7}, {**LINEAR, **TURNED}),
    "randlora-regrown": (peft.RandLoraConfig, {"r": 3, "save_projection": False}, {**LINEAR, **TURNED}),
    "randlora-sparse": (
        peft.RandLoraConfig,
        {"r": 3, "sparse": True, "save_projection": False},
        {**LINEAR, **TURNED},
    ),
    "randlora-very-sparse": (
        peft.RandLoraConfig,
        {"r": 4, "very_sparse": True, "save_projection": False, "projection_prng_key": 7},
        {**LINEAR, **TURNED},
    ),
    "vblora": (
        peft.VBLoRAConfig,
        {"r": 3, "num_vectors": 10, "vector_length": 4, "topk": 2},
        {**LINEAR, **TURNED},
    ),
    "vblora-topk-saved": (
        peft.VBLoRAConfig,
        {"r": 3, "num_vectors": 10, "vector_length": 4, "topk": 3, "save_only_topk_weights": True},
        {**LINEAR, **TURNED},
    ),
    "vblora-top1-saved": (
        peft.VBLoRAConfig,
        {"r": 3, "num_vectors": 300, "vector_length": 2, "topk": 1, "save_only_topk_weights": True},
        {**LINEAR, **TURNED},
    ),
    "unilora": (
        peft.UniLoraConfig,
        {"r": 2, "theta_d_length": 16, "save_indices": True},
        {**LINEAR, **TURNED},
    ),
    "delora": (peft.DeloraConfig, {"r": 3, "rank_pattern": {"tall": 2}, "lambda_pattern": {"wide": 3}}, LINEAR),
    "gralora": (peft.GraloraConfig, {"r": 4, "gralora_k": 2, "alpha": 9}, LINEAR),
    "gralora-hybrid": (
        peft.GraloraConfig,
        {"r": 8, "hybrid_r": 2, "gralora_k": 4, "alpha": 9},
        {**LINEAR, **TURNED},
    ),
    "glora": (peft.GloraConfig, {"r": 3, "config_C": "none"}, LINEAR),
    "glora-vector": (
        peft.GloraConfig,
        {"config_A_B": "vector", "config_C": "none", "config_D_E": "vector"},
        LINEAR,
    ),
    "glora-constant": (peft.GloraConfig, {"config_A_B": "constant", "config_C": "none"}, LINEAR),
    "glora-bias": (
        peft.GloraConfig,
        {"config_A_B": "none", "config_C": "none"},
        {"tall": LINEAR["tall"], "square": LINEAR["square"]},
    ),
    "glora-weight": (peft.GloraConfig, {"r": 3, "config_C": "none", "config_D_E": "none"}, LINEAR),
    "hira": (
        peft.HiraConfig,
        {"r": 3, "rank_pattern": {"tall": 2}},
        {**LINEAR, **TURNED, **CONV, **OTHER},
    ),
    "miss": (peft.MissConfig, {"r": 4}, LINEAR),
    "miss-padded": (peft.MissConfig, {"r": 5}, LINEAR),
    "miss-mini": (peft.MissConfig, {"r": 4, "init_weights": "mini", "mini_r": 2}, LINEAR),
    "miss-mini-padded": (peft.MissConfig, {"r": 5, "init_weights": "mini", "mini_r": 4}, LINEAR),
    "miss-bat": (peft.MissConfig, {"r": 4, "init_weights": "bat"}, LINEAR),
}


@pytest.mark.parametrize("case", CASES)
def test_formula_is_pefts_forward(case: str) -> None:
    config, factories = config_of(CASES[case]), CASES[case][2]
    assert check_row(row_of(config), below(**factories), config) == len(factories)


def test_every_streamed_row_has_a_case() -> None:
    tested = {row_of(config_of(case)).name for case in CASES.values()}
    assert tested == {row.name for row in ROWS if row.route == "streamed"}


@pytest.mark.filterwarnings("ignore:Specified to not save")
@pytest.mark.parametrize("method", ["vera", "pvera"])
def test_projections_grown_for_a_bfloat16_base_are_rounded(method: str) -> None:
    """PEFT rounds what it grows to the base's dtype, and then uses it in float32."""
    config = {"vera": peft.VeraConfig, "pvera": peft.PveraConfig}[method](
        r=4, target_modules=["tall"], save_projection=False
    )
    model = peft.get_peft_model(layers(tall=LINEAR["tall"])().bfloat16(), config).base_model
    a, b = (getattr(model, f"{method}_{side}")["default"] for side in "AB")
    lambda_b, lambda_d = torch.randn(12), torch.randn(len(a))
    grown, whole = formula(f"vera:{method}_regrown"), slice(0, 12)
    expected = formula(f"vera:{method}")(lambda_b, lambda_d, a, b)(torch.zeros(12, 8), whole)
    rounded = grown(lambda_b, lambda_d, seed=0, largest=(12, 8), rounded_to="bfloat16")
    exact = grown(lambda_b, lambda_d, seed=0, largest=(12, 8))
    assert torch.equal(rounded(torch.zeros(12, 8), whole), expected)
    assert not torch.equal(exact(torch.zeros(12, 8), whole), expected)
