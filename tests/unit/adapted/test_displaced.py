"""Modules that the loaded model does not have as such: experts stacked on loading, parameters adapted by themselves."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.handmade import write_adapter
from helpers.models import config_of, fill_weights, new_folder, plain_adapter, quiet, tokenizer
from ingraft.adapted import load_adapted

EXPERTS, WIDTH, INNER, RANK = 4, 64, 16, 3


@functools.cache
def mixture() -> Path:
    """A Qwen3-MoE base: one tensor per expert and projection on disk, stacked and fused ones when loaded."""
    from transformers import Qwen3MoeConfig, Qwen3MoeModel

    common = config_of("qwen3").to_dict()
    kept = {key: common[key] for key in ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads")}
    config = Qwen3MoeConfig(
        **kept,
        num_hidden_layers=2,
        head_dim=16,
        max_position_embeddings=64,
        num_experts=EXPERTS,
        num_experts_per_tok=2,
        moe_intermediate_size=INNER,
        intermediate_size=32,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )
    folder = new_folder("mixture")
    model = Qwen3MoeModel(config)
    fill_weights(model)
    with quiet():
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
    return folder


def expert_adapter(base: Path) -> tuple[Path, dict[str, Tensor]]:
    """LoRA on every expert's own projections, as transformers 4 had them, and the delta of each stored weight."""
    stored = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    for name, weight in stored.items():
        if ".experts." in name:
            a = torch.randn(RANK, weight.shape[1], generator=generator)
            b = torch.randn(weight.shape[0], RANK, generator=generator)
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            deltas[name] = 2.0 * b @ a
    folder = new_folder("expert-adapter")
    projections = ["gate_proj", "up_proj", "down_proj"]
    write_adapter(folder, base, tensors=tensors, rank=RANK, alpha=2 * RANK, target_modules=projections)
    return folder, deltas


def test_experts_adapted_one_by_one_reach_the_stacked_weights() -> None:
    base = mixture()
    adapter, deltas = expert_adapter(base)
    assert len(deltas) == 2 * EXPERTS * 3
    stored = load_file(base / "model.safetensors")

    model: Any = load_adapted(adapter, base)

    for layer in range(2):
        experts = model[0].model.layers[layer].mlp.experts
        for expert in range(EXPERTS):
            name = f"layers.{layer}.mlp.experts.{expert}"
            gate, up, down = (
                stored[f"{name}.{part}.weight"] + deltas[f"{name}.{part}.weight"]
                for part in ("gate_proj", "up_proj", "down_proj")
            )
            torch.testing.assert_close(experts.gate_up_proj[expert], torch.cat([gate, up]), rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(experts.down_proj[expert], down, rtol=1e-5, atol=1e-5)
    key = "layers.0.self_attn.q_proj.weight"
    assert torch.equal(model[0].model.get_parameter(key), stored[key])


@pytest.mark.parametrize("order", [1, -1])
def test_parameters_adapted_by_themselves(order: int) -> None:
    """Two on one module: PEFT wraps the second around the first, and the file has both under names of its own."""
    base = mixture()
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"][::order]
    patterns = {"rank_pattern": {"experts.down_proj": 3}, "alpha_pattern": {"gate_up_proj": 5, "q_proj": 7}}
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=targets, **patterns)
    adapter = plain_adapter(base, config)

    model: Any = load_adapted(adapter, base)

    batch = tokenizer()("fever and cough", return_tensors="pt", return_token_type_ids=False)
    with quiet(), torch.no_grad():
        from transformers import AutoModel

        plain = AutoModel.from_pretrained(base).eval()
        unmerged = plain(**batch).last_hidden_state
        trained = peft.PeftModel.from_pretrained(plain, adapter).eval()
        expected = trained(**batch).last_hidden_state
        found = model[0].model(**batch).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, unmerged, atol=1e-2)
