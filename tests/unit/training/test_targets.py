"""Which layers `auto` takes, over the architectures that embedding models have."""

from __future__ import annotations

from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.targets import choose_targets

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# architecture → (settings of a small one, the names that auto takes, what is excluded)
ARCHITECTURES: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "Bert": (SMALL, {"query", "key", "value", "dense"}, {"pooler.dense"}),
    "XLMRoberta": (SMALL, {"query", "key", "value", "dense"}, {"pooler.dense"}),
    "MPNet": (SMALL, {"q", "k", "v", "o", "dense"}, {"pooler.dense"}),
    "DistilBert": (
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
        {"q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"},
        set(),
    ),
    "ModernBert": (SMALL, {"Wqkv", "Wo", "Wi"}, set()),
    "Albert": (
        SMALL | {"embedding_size": 16},
        {"query", "key", "value", "dense", "ffn", "ffn_output"},
        set(),
    ),
    "Qwen3": (
        SMALL | {"num_key_value_heads": 1, "head_dim": 16},
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        set(),
    ),
    "GPT2": ({"n_embd": 32, "n_layer": 2, "n_head": 2}, {"c_attn", "c_proj", "c_fc"}, set()),
}


def build(architecture: str) -> Any:
    import torch
    import transformers

    settings = ARCHITECTURES[architecture][0]
    config = getattr(transformers, f"{architecture}Config")(**settings)
    with torch.device("meta"):
        return getattr(transformers, f"{architecture}Model")(config)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_auto_takes_the_linear_layers_of_the_blocks(architecture: str) -> None:
    _, names, excluded = ARCHITECTURES[architecture]
    targets = choose_targets(build(architecture))
    assert set(targets.names) == names
    assert set(targets.excluded) == excluded


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_peft_adapts_all_of_them_and_nothing_else(architecture: str) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    model = build(architecture)
    blocks = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    expected = {
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and any(name.startswith(f"{block}.") for block in blocks)
    }
    targets = choose_targets(model)
    config = LoraConfig(
        target_modules=list(targets.names),
        exclude_modules=list(targets.excluded) or None,
        fan_in_fan_out=architecture == "GPT2",
    )
    inject_adapter_in_model(config, model)
    assert {name for name, module in model.named_modules() if isinstance(module, LoraLayer)} == expected
    assert len(expected) > 4


def test_names_stand_for_layers_of_the_blocks() -> None:
    model = build("Bert")
    assert choose_targets(model, "query, dense").names == ("query", "dense")
    assert choose_targets(model, "query, dense").excluded == ("pooler.dense",)
    assert choose_targets(model, "query,pooler.dense").excluded == ()
    assert choose_targets(model, "attention.output.dense").excluded == ()


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UnusableInput, match=r"BertModel has no layer called querry \(nearest: query\)") as error:
        choose_targets(build("Bert"), "querry")
    assert "key" in error.value.hint


def test_no_names_at_all() -> None:
    with pytest.raises(UnusableInput, match="--target-modules is empty"):
        choose_targets(build("Bert"), " , ")


def test_routers_are_left_alone() -> None:
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = nn.Linear(4, 2), nn.Linear(4, 4)

    model = nn.Sequential()
    model.add_module("layers", nn.ModuleList([Block(), Block()]))
    assert choose_targets(model).names == ("up",)
