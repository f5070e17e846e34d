"""What a plan says of base and adapter: names, files, and the facts that a person is shown."""

from __future__ import annotations

from collections.abc import Sequence

from ingraft.adapter import Adapter
from ingraft.base_model import BaseModel
from ingraft.base_precision import Dequantised
from ingraft.steps import Source


def base_source(models: Sequence[BaseModel], dequantised: Dequantised | None) -> Source:
    """The base of a merge, which may have several adapted transformers."""
    first = models[0]
    return Source(
        name=first.name,
        root=first.layout.root,
        weights=tuple(shard.path for model in models for shard in model.checkpoint.shards),
        nbytes=sum(model.checkpoint.nbytes for model in models),
        details={
            "architecture": str((first.config.get("architectures") or [first.config.get("model_type", "")])[0]),
            "parameters": sum(model.checkpoint.elements for model in models),
            "dtype": first.checkpoint.dtype,
            "format": "pickled" if first.checkpoint.pickled else "safetensors",
            **({"precision": dequantised.how} if dequantised else {}),
        },
    )


def adapter_source(adapters: Sequence[Adapter]) -> Source:
    """The adapter of a merge, which may be several: one for each transformer."""
    raw = adapters[0].config.raw
    keys = (
        "r",
        "lora_alpha",
        "alpha",
        "use_rslora",
        "target_modules",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
    )
    details = {key: raw[key] for key in keys if raw.get(key) not in (None, {}, [], False)}
    return Source(
        name=adapters[0].name,
        root=adapters[0].root,
        weights=tuple(adapter.weights for adapter in adapters),
        nbytes=sum(adapter.nbytes for adapter in adapters),
        details=details,
    )
