"""PiSSA and OLoRA begin by taking a part out of the base; what is saved is a LoRA adapter for the base as it is.

They train W − s·B₀·A₀ + s·B·A, with A₀ and B₀ from W itself. The saved adapter has twice the rank:
s·[B, −B₀]·[A; A₀] = s·B·A − s·B₀·A₀, so that any loader and any merge give the trained weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed
from ingraft.files import read_json_object, to_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def initial_matrices(transformer: PreTrainedModel, adapter_name: str) -> dict[str, Tensor]:
    """Copies of the LoRA matrices as they are now: [r, in] and [out, r], by their names in an adapter file."""
    state = transformer.get_adapter_state_dict(adapter_name)
    return {f"base_model.model.{name}": value.detach().clone() for name, value in state.items() if ".lora_" in name}


def convert(folder: Path, initial: Mapping[str, Tensor]) -> None:
    """Rewrite the adapter in `folder` as one for the base as it is. CheckFailed when its tensors are not those of
    `initial`."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = folder / "adapter_model.safetensors"
    trained = load_file(weights)
    if {name for name in trained if ".lora_" in name} != set(initial):
        raise CheckFailed("The adapter was not saved whole: its matrices are not those that training began with.")
    converted: dict[str, Tensor] = dict(trained)
    for name, start in initial.items():
        start = start.to(trained[name])
        # lora_A is [r, in], lora_B [out, r].
        both = (trained[name], start) if ".lora_A." in name else (trained[name], -start)
        converted[name] = torch.cat(both, dim=0 if ".lora_A." in name else 1).contiguous()
    save_file(converted, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    config.write_text(to_json(_converted_config(read_json_object(config))), encoding="utf-8")


def _converted_config(config: dict[str, Any]) -> dict[str, Any]:
    """Twice the rank at the same scale: α/r, or α/√r for rsLoRA."""
    factor = math.sqrt(2) if config.get("use_rslora") else 2
    return {
        **config,
        "init_lora_weights": True,
        "r": 2 * config["r"],
        "lora_alpha": factor * config["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in (config.get("rank_pattern") or {}).items()},
        "alpha_pattern": {name: factor * alpha for name, alpha in (config.get("alpha_pattern") or {}).items()},
    }
