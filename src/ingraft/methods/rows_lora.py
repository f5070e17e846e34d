"""Rows for LoRA and its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.methods.method import Method, Setting, Target
from ingraft.methods.settings import check_shape, rank_of, scale_of

EMBEDDING_FORMULAS = {"lora:lora": "lora:lora_embedding", "dora:dora": "dora:dora_embedding"}

TENSORS = {
    ".lora_A.weight": "lora_A",
    ".lora_B.weight": "lora_B",
    ".lora_B.bias": "lora_bias",
    ".lora_embedding_A": "lora_embedding_A",
    ".lora_embedding_B": "lora_embedding_B",
    ".token_adapter.trainable_tokens_delta": "trainable_tokens_delta",
}


def _lora(config: Mapping[str, Any], target: Target, targets: Sequence[Target]) -> dict[str, Setting]:
    rank = rank_of(config, target.module, 8)
    scale = scale_of(config, target.module, rank, 8, key="lora_alpha")
    if config.get("use_rslora"):
        scale *= rank**0.5
    if target.kind == "embedding":
        check_shape(target, "lora_embedding_A", (rank, target.shape[0]))
        check_shape(target, "lora_embedding_B", (target.shape[1], rank))
    elif target.kind != "conv":
        check_shape(target, "lora_A", (rank, target.shape[1]))
        check_shape(target, "lora_B", (target.shape[0], rank))
    return {"scale": scale}


ROWS: tuple[Method, ...] = (
    Method(
        "LORA",
        "LoRA",
        "streamed",
        change="ΔW = s·B·A",
        source="Hu et al. 2021, arXiv:2106.09685",
        tensors=TENSORS,
        optional=frozenset(TENSORS.values()),
        kinds=frozenset({"linear", "conv1d", "conv", "embedding"}),
        formula="lora:lora",
        bias="lora:lora_bias",
        bias_tensors=frozenset({"lora_bias"}),
        settings=_lora,
    ),
)
