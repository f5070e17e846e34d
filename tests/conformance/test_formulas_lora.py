"""Rows of rows_lora against PEFT's unmerged forward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, VeloraConfig, get_peft_model
from peft.tuners.lora import BdLoraConfig, KasaConfig, MontecloraConfig
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from conformance.formula_harness import (
    ModelFactory,
    call,
    check_row,
    disturb,
    error,
    in_blocks,
    layer_input,
    layers,
    load_adapter,
    merge_by_row,
    save_adapter,
)
from ingraft.methods.method import Target
from ingraft.methods.rows_lora import ROWS

LINEAR = layers(
    tall=lambda: nn.Linear(6, 10), wide=lambda: nn.Linear(10, 6, bias=False), square=lambda: nn.Linear(8, 8)
)
TURNED = layers(
    tall=lambda: Conv1D(10, 6), wide=lambda: Conv1D(6, 10), square=lambda: Conv1D(8, 8), linear=lambda: nn.Linear(6, 8)
)
CONVOLUTIONS = layers(
    one=lambda: nn.Conv1d(3, 5, 3, padding=1),
    two=lambda: nn.Conv2d(4, 6, (3, 2), stride=2),
    point=lambda: nn.Conv2d(4, 6, 1, bias=False),
    three=lambda: nn.Conv3d(2, 5, 2),
)
EMBEDDING = layers(words=lambda: nn.Embedding(11, 6, padding_idx=0), linear=lambda: nn.Linear(6, 4))

CASES: dict[str, tuple[str, ModelFactory, Mapping[str, Any]]] = {
    "linear": ("LoRA", LINEAR, {}),
    "linear-lora_bias": ("LoRA", layers(tall=lambda: nn.Linear(6, 10)), {"lora_bias": True}),
    "turned": ("LoRA", TURNED, {}),
    "convolutions": ("LoRA", CONVOLUTIONS, {}),
    "convolutions-lora_bias": ("LoRA", layers(two=lambda: nn.Conv2d(4, 6, 3)), {"lora_bias": True}),
    "embedding": ("LoRA", EMBEDDING, {}),
    "patterns": (
        "LoRA",
        LINEAR,
        {"rank_pattern": {"ta.*": 4, "tall": 3, "^wide": 1}, "alpha_pattern": {"square": 5, "l": 7}},
    ),
    "bias-all": ("LoRA", LINEAR, {"bias": "all"}),
    "bias-lora_only": ("LoRA", LINEAR, {"bias": "lora_only"}),
    "modules_to_save": ("LoRA", LINEAR, {"target_modules": ["tall", "wide"], "modules_to_save": ["square"]}),
    "start-gaussian": ("LoRA", LINEAR, {"init_lora_weights": "gaussian"}),
    "start-orthogonal": ("LoRA", LINEAR, {"init_lora_weights": "orthogonal"}),
    "start-false": ("LoRA", LINEAR, {"init_lora_weights": False}),
    "start-mica": ("LoRA", EMBEDDING, {"init_lora_weights": "mica"}),
    "rslora": ("rsLoRA", LINEAR, {"use_rslora": True}),
    "rslora-patterns": (
        "rsLoRA",
        LINEAR,
        {"use_rslora": True, "rank_pattern": {"tall": 4}, "alpha_pattern": {"wide": 9}},
    ),
    "dora-linear": ("DoRA", LINEAR, {"use_dora": True}),
    "dora-rslora": ("DoRA", LINEAR, {"use_dora": True, "use_rslora": True}),
    "dora-turned": ("DoRA", TURNED, {"use_dora": True}),
    "dora-convolutions": ("DoRA", CONVOLUTIONS, {"use_dora": True}),
    "dora-embedding": ("DoRA", EMBEDDING, {"use_dora": True}),
    "bdlora": (
        "BD-LoRA",
        LINEAR,
        {
            "use_bdlora": BdLoraConfig(
                target_modules_bd_a=["tall"], target_modules_bd_b=["squ"], nblocks=2, match_strict=False
            )
        },
    ),
    "velora": ("VeLoRA", LINEAR, {"velora_config": VeloraConfig(num_groups=2)}),
    "monteclora": ("MonteCLoRA", LINEAR, {"monteclora_config": MontecloraConfig(num_samples=2, buffer_size=2)}),
    "kasa": ("KaSA", LINEAR, {"kasa_config": KasaConfig()}),
    "pissa": ("PiSSA", LINEAR, {"init_lora_weights": "pissa"}),
    "pissa-rslora": ("PiSSA", LINEAR, {"init_lora_weights": "pissa", "use_rslora": True}),
    "pissa-turned": ("PiSSA", TURNED, {"init_lora_weights": "pissa"}),
    "pissa-embedding": ("PiSSA", EMBEDDING, {"init_lora_weights": "pissa"}),
    "pissa-too-many": ("PiSSA", LINEAR, {"init_lora_weights": "pissa", "r": 8}),
    "pissa-velora": (
        "PiSSA",
        LINEAR,
        {"init_lora_weights": "pissa", "velora_config": VeloraConfig(num_groups=2)},
    ),
    "olora": ("OLoRA", LINEAR, {"init_lora_weights": "olora"}),
    "olora-rslora": ("OLoRA", LINEAR, {"init_lora_weights": "OLoRA", "use_rslora": True}),
    "olora-turned": ("OLoRA", layers(square=lambda: Conv1D(8, 8)), {"init_lora_weights": "olora"}),
    "olora-embedding": ("OLoRA", EMBEDDING, {"init_lora_weights": "olora"}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_formula_is_what_peft_computes(name: str) -> None:
    method, model, options = CASES[name]
    row = next(row for row in ROWS if row.name == method)
    names = [child for child, _ in model().named_children()]
    config = LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": names, **options})
    assert check_row(row, model, config) == len(names)


def test_every_streamed_row_has_a_case() -> None:
    assert {row.name for row in ROWS if row.route == "streamed"} == {method for method, _, _ in CASES.values()}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("PiSSA", {"init_lora_weights": "pissa"}),
        ("OLoRA", {"init_lora_weights": "olora"}),
        ("KaSA", {"kasa_config": KasaConfig()}),
        ("DoRA", {"use_dora": True}),
    ],
)
def test_what_remains_of_the_base_is_rounded_to_its_dtype(method: str, options: Mapping[str, Any]) -> None:
    """The truth is what PEFT makes of a bfloat16 base, computed further in float64."""
    row = next(row for row in ROWS if row.name == method)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["tall", "wide", "square"], **options)
    assert check_row(row, lambda: LINEAR().to(torch.bfloat16), config) == 3


TOKENS = layers(embed_tokens=lambda: nn.Embedding(11, 6), linear=lambda: nn.Linear(6, 4))


@pytest.mark.parametrize("indices", [[9, 0, 4], {"tokens": [9, 0, 4]}])
@pytest.mark.parametrize(
    ("method", "options"), [("LoRA", {}), ("DoRA", {"use_dora": True}), ("KaSA", {"kasa_config": KasaConfig()})]
)
def test_trainable_tokens_beside_lora(method: str, options: Mapping[str, Any], indices: Any) -> None:
    row = next(row for row in ROWS if row.name == method)
    config = LoraConfig(r=2, target_modules=["linear"], trainable_token_indices=indices, **options)
    assert check_row(row, TOKENS, config) == 2


class Experts(nn.Module):
    """Two stacks of matrices, [experts, out, in] or the other way round, as in models with experts."""

    def __init__(self, *, is_transposed: bool) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        shapes = ((3, 6, 4), (3, 5, 6)) if not is_transposed else ((3, 4, 6), (3, 6, 5))
        self.first, self.second = (nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        pattern = "bi,eio->ebo" if self.is_transposed else "bi,eoi->ebo"
        hidden = torch.einsum(pattern, x, self.first)
        return torch.einsum(pattern.replace("bi,", "ebi,"), hidden, self.second)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_experts_of_targeted_parameters(tmp_path: Path, is_transposed: bool) -> None:
    """Both parameters of a module are wrapped, one inside the other; the outer wrapper holds the second."""
    model = layers(experts=lambda: Experts(is_transposed=is_transposed))
    config = LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=[],
        target_parameters=["experts.first", "experts.second"],
        rank_pattern={"second": 3},
    )
    save_adapter(model, config, tmp_path)
    live = load_adapter(model(), tmp_path).double()
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    row = next(row for row in ROWS if row.name == "LoRA")
    raw = json.loads((tmp_path / "adapter_config.json").read_text())
    merged = model().experts
    for name, place in (("first", "experts.base_layer"), ("second", "experts")):
        inputs = {f"lora_{side}": tensors[f"base_model.model.{place}.lora_{side}.weight"] for side in "AB"}
        stack = merged.get_parameter(name)
        shape = (stack.shape[0], stack.shape[1] * stack.shape[2])
        target = Target(f"experts.{name}", "linear", shape, {key: tuple(t.shape) for key, t in inputs.items()})
        settings = row.settings(raw, target, [target])
        assert settings["experts"] == 3
        with torch.no_grad():
            for number, matrix in enumerate(stack):
                rows = call(row.expert, inputs, settings, expert=number)
                turned = matrix.T.contiguous() if is_transposed else matrix
                new = in_blocks(rows, turned.clone(), 2)
                matrix.copy_(new.T if is_transposed else new)
    x = torch.randn(7, 4, dtype=torch.float64)
    with torch.no_grad():
        assert error(merged.double()(x), live.base_model.model.experts(x)) < 1e-5


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_a_converted_pissa_adapter_is_plain_lora(tmp_path: Path) -> None:
    """Saved with `path_initial_model_for_weight_conversion`, it fits the original base and needs nothing taken out."""
    model = LINEAR()
    names = [name for name, _ in model.named_children()]
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=3, target_modules=names, init_lora_weights="pissa"))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "start")
    adapted.peft_config["default"].init_lora_weights = "pissa"
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                disturb(name, parameter)
    adapted.save_pretrained(tmp_path / "end", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    row = next(row for row in ROWS if row.name == "LoRA")
    merged = merge_by_row(row, LINEAR(), tmp_path / "end", 3)
    assert merged.changed == tuple(sorted(names))
    for name in names:
        x = layer_input(LINEAR().get_submodule(name), torch.float32)
        with torch.no_grad():
            expected = adapted.get_submodule(f"base_model.model.{name}")(x)
            assert error(merged.model.get_submodule(name)(x), expected) < 1e-5
