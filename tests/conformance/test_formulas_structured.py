"""Rows of rows_structured against PEFT's unmerged forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from conformance.formula_harness import ModelFactory, check_row, layers
from ingraft.methods.rows_structured import ROWS

LINEAR = layers(
    tall=lambda: nn.Linear(6, 10), wide=lambda: nn.Linear(10, 6, bias=False), square=lambda: nn.Linear(8, 8)
)
WIDE = layers(tall=lambda: nn.Linear(8, 12), wide=lambda: nn.Linear(24, 8, bias=False), square=lambda: nn.Linear(8, 8))
TURNED = layers(tall=lambda: Conv1D(10, 6), wide=lambda: Conv1D(6, 10), square=lambda: Conv1D(8, 8))
PLANES = layers(two=lambda: nn.Conv2d(4, 6, 3, padding=1), point=lambda: nn.Conv2d(4, 6, 1, stride=2, bias=False))
PLAIN_PLANES = layers(two=lambda: nn.Conv2d(4, 6, 2), point=lambda: nn.Conv2d(4, 6, 1, stride=2))
SPACES = layers(
    two=lambda: nn.Conv2d(4, 6, 3), three=lambda: nn.Conv3d(2, 6, 2), grouped=lambda: nn.Conv2d(4, 6, 3, groups=2)
)
EMBEDDING = layers(words=lambda: nn.Embedding(11, 8))

Case = tuple[str, ModelFactory, type[peft.PeftConfig], Mapping[str, Any]]
ADALORA = {"init_r": 3, "target_r": 2, "total_step": 10, "lora_alpha": 5}
CASES: dict[str, Case] = {
    "adalora": ("AdaLoRA", LINEAR, peft.AdaLoraConfig, ADALORA),
    "adalora-turned": ("AdaLoRA", TURNED, peft.AdaLoraConfig, ADALORA),
    "adalora-planes": ("AdaLoRA", PLANES, peft.AdaLoraConfig, ADALORA),
    "adalora-no-alpha": ("AdaLoRA", LINEAR, peft.AdaLoraConfig, {**ADALORA, "lora_alpha": 0}),
    "oft": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4}),
    "oft-blocks": ("OFT", WIDE, peft.OFTConfig, {"r": 4, "oft_block_size": 0}),
    "oft-other-size": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 3}),
    "oft-other-blocks": ("OFT", WIDE, peft.OFTConfig, {"r": 5, "oft_block_size": 0}),
    "oft-default-size": ("OFT", WIDE, peft.OFTConfig, {}),
    "oft-shared": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "block_share": True}),
    "oft-exact": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "use_cayley_neumann": False}),
    "oft-2": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 2}),
    "oft-3": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 3}),
    "oft-4": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 4}),
    "oft-7": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "num_cayley_neumann_terms": 7}),
    "coft": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "coft": True, "eps": 0.7}),
    "coft-shared": (
        "OFT",
        WIDE,
        peft.OFTConfig,
        {"oft_block_size": 4, "coft": True, "eps": 0.4, "block_share": True, "use_cayley_neumann": False},
    ),
    "coft-no-limit": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "coft": True, "eps": 50.0}),
    "oft-bias": ("OFT", WIDE, peft.OFTConfig, {"oft_block_size": 4, "bias": "oft_only"}),
    "oft-embedding": ("OFT", EMBEDDING, peft.OFTConfig, {"r": 4, "oft_block_size": 0}),
    "oft-embedding-exact": (
        "OFT",
        EMBEDDING,
        peft.OFTConfig,
        {"r": 1, "oft_block_size": 0, "use_cayley_neumann": False},
    ),
    "boft": ("BOFT", WIDE, peft.BOFTConfig, {"boft_block_size": 4}),
    "boft-blocks": ("BOFT", WIDE, peft.BOFTConfig, {"boft_block_size": 0, "boft_block_num": 2}),
    "boft-planes": ("BOFT", PLAIN_PLANES, peft.BOFTConfig, {"boft_block_size": 4}),
    "hra": ("HRA", LINEAR, peft.HRAConfig, {"r": 4}),
    "hra-odd": ("HRA", LINEAR, peft.HRAConfig, {"r": 3}),
    "hra-orthogonal": ("HRA", LINEAR, peft.HRAConfig, {"r": 4, "apply_GS": True}),
    "hra-planes": ("HRA", PLAIN_PLANES, peft.HRAConfig, {"r": 2}),
    "road-1": ("RoAd", WIDE, peft.RoadConfig, {"variant": "road_1", "group_size": 4}),
    "road-2": ("RoAd", WIDE, peft.RoadConfig, {"variant": "road_2", "group_size": 2}),
    "road-4": ("RoAd", WIDE, peft.RoadConfig, {"variant": "road_4", "group_size": 4}),
    "ia3": ("(IA)³", LINEAR, peft.IA3Config, {"feedforward_modules": ["wide"]}),
    "ia3-regex": ("(IA)³", LINEAR, peft.IA3Config, {"feedforward_modules": "t.*"}),
    "ia3-turned": ("(IA)³", TURNED, peft.IA3Config, {"feedforward_modules": ["tall", "square"]}),
    "ia3-spaces": ("(IA)³", SPACES, peft.IA3Config, {"feedforward_modules": []}),
    "ln-tuning": (
        "LayerNorm tuning",
        layers(norm=lambda: nn.LayerNorm(6), bare=lambda: nn.LayerNorm(5, bias=False)),
        peft.LNTuningConfig,
        {},
    ),
    "trainable-tokens": (
        "Trainable tokens",
        EMBEDDING,
        peft.TrainableTokensConfig,
        {"token_indices": [9, 0, 4], "target_modules": ["words"]},
    ),
    "osf": ("OSF", LINEAR, peft.OSFConfig, {"effective_rank": 4}),
    "osf-half": ("OSF", LINEAR, peft.OSFConfig, {}),
    "osf-patterns": ("OSF", LINEAR, peft.OSFConfig, {"effective_rank": 0.25, "rank_pattern": {"all": 5, "t": 1}}),
    "psoft": ("PSOFT", LINEAR, peft.PsoftConfig, {"r": 4, "psoft_alpha": 7}),
    "psoft-symmetric": ("PSOFT", LINEAR, peft.PsoftConfig, {"r": 4, "ab_svd_init": "pissa_init"}),
    "psoft-free": ("PSOFT", LINEAR, peft.PsoftConfig, {"r": 4, "psoft_orth": False}),
    "psoft-no-lengths": ("PSOFT", LINEAR, peft.PsoftConfig, {"r": 4, "psoft_mag_a": False, "psoft_mag_b": False}),
    "psoft-series": (
        "PSOFT",
        LINEAR,
        peft.PsoftConfig,
        {"r": 4, "use_cayley_neumann": True, "num_cayley_neumann_terms": 3},
    ),
    "psoft-limit": (
        "PSOFT",
        LINEAR,
        peft.PsoftConfig,
        {"r": 4, "use_cayley_neumann": True, "cayley_neumann_eps": 0.3, "psoft_mag_a": False},
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("name", CASES)
def test_the_formula_is_what_peft_computes(name: str) -> None:
    method, model, config, options = CASES[name]
    row = next(row for row in ROWS if row.name == method)
    names = [child for child, _ in model().named_children()]
    made = config(**{"target_modules": names, **options})
    assert check_row(row, model, made) == len(names)


def test_every_streamed_row_has_a_case() -> None:
    assert {row.name for row in ROWS if row.route == "streamed"} == {case[0] for case in CASES.values()}


PRUNED = {"tall.lora_E": [True, False, True], "wide.lora_E": [False, False, False]}


@pytest.mark.parametrize("alpha", [5, 0])
def test_adalora_keeps_its_scale_where_ranks_were_pruned(alpha: int) -> None:
    """One module with two of three parts, one with none, one that the pattern does not name."""
    config = peft.AdaLoraConfig(
        **{**ADALORA, "lora_alpha": alpha}, target_modules=["tall", "wide", "square"], rank_pattern=PRUNED
    )
    row = next(row for row in ROWS if row.name == "AdaLoRA")
    assert check_row(row, LINEAR, config, idle=("wide",)) == 3


class BlockDiagonal:
    """What PEFT's CUDA extension does, on the CPU."""

    @staticmethod
    def forward(blocks: Tensor) -> list[Tensor]:
        return [torch.stack([torch.block_diag(*factor) for factor in blocks])]


@pytest.mark.parametrize(("factors", "blocks", "size"), [(2, 2, 4), (2, 0, 2), (3, 4, 2)])
def test_boft_with_several_butterfly_factors(
    monkeypatch: pytest.MonkeyPatch, factors: int, blocks: int, size: int
) -> None:
    """They take PEFT's CUDA extension, which is replaced here by one line."""
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: BlockDiagonal)
    config = peft.BOFTConfig(
        target_modules=["tall", "wide", "square"],
        boft_n_butterfly_factor=factors,
        boft_block_num=blocks,
        boft_block_size=0 if blocks else size,
    )
    row = next(row for row in ROWS if row.name == "BOFT")
    assert check_row(row, WIDE, config) == 3


def test_osf_takes_out_what_the_base_holds_in_its_own_dtype() -> None:
    row = next(row for row in ROWS if row.name == "OSF")
    config = peft.OSFConfig(target_modules=["tall", "wide", "square"], effective_rank=3)
    assert check_row(row, lambda: LINEAR().to(torch.bfloat16), config) == 3
