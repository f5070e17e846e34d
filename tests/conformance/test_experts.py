"""LoRA on stacks of experts: one tensor per expert on disk, or a stack as when loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import transformers

from conformance.adapters import Trained, by_peft, lora
from conformance.architectures import ARCHITECTURES, Dtype, Layout, base
from conformance.merging import NOISE, check_lora, check_merge


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["plain", "shards"])
@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral", "gpt-oss"])
def test_experts(architecture: str, layout: Layout, dtype: Dtype) -> None:
    made = ARCHITECTURES[architecture]
    config = lora(target_modules=["q_proj"], target_parameters=list(made.experts))
    trained = by_peft(base(architecture, dtype, layout), config)
    check_merge(trained, base(architecture, dtype, layout), architecture, noise=NOISE)


EXPERTS: Mapping[str, dict[str, Any]] = {
    "one parameter": {"target_parameters": ["experts.down_proj"]},
    "the other parameter": {"target_parameters": ["experts.gate_up_proj"]},
    "ranks": {
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 2},
        "alpha_pattern": {"experts.gate_up_proj": 5},
    },
    "rank-stabilised": {"target_parameters": ["experts.down_proj"], "use_rslora": True},
    "with the router": {"target_parameters": ["experts.down_proj", "gate.weight"]},
}


@pytest.mark.parametrize("variant", EXPERTS)
@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral", "gpt-oss"])
def test_variants_on_experts(architecture: str, variant: str) -> None:
    options = dict(EXPERTS[variant])
    if architecture == "gpt-oss" and variant == "with the router":
        options["target_parameters"] = ["experts.down_proj", "router.weight"]
    check_lora(architecture, target_modules=[], size=2, **options)


@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral", "gpt-oss"])
def test_experts_that_are_saved_whole(architecture: str) -> None:
    config = lora(target_modules=["q_proj"], modules_to_save=["experts"])
    check_merge(by_peft(base(architecture), config), base(architecture), architecture, noise=NOISE)


def test_experts_trained_with_a_head() -> None:
    config = lora(target_modules=["v_proj"], target_parameters=["experts.down_proj"])
    trained = by_peft(base("mixtral"), config, auto="AutoModelForCausalLM")
    before = transformers.AutoModel.from_pretrained(base("mixtral"), dtype="auto").eval()
    body: Any = trained.live.base_model
    check_merge(Trained(trained.folder, body, body, before), base("mixtral"), "mixtral", noise=NOISE)
