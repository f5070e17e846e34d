"""Layers of two running models against each other: what is right passes, and no plan can talk it out of a fault."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers.handmade import write_adapter
from helpers.merging import merged
from helpers.models import lora_config, quiet, sentence_adapter, sentence_base
from ingraft.adapted.load import open_unadapted
from ingraft.adapted.sentence import load_model
from ingraft.adapted.transformers import transformers_by_folder
from ingraft.adapter import open_adapter
from ingraft.execute import execute
from ingraft.layout import read_layout
from ingraft.plan import plan_merge
from ingraft.steps import Edit, MergePlan
from ingraft.verification.layers import answers_of, compare_layers, roundings_of
from ingraft.verification.report import Check
from ingraft.verification.weights import verify_weights

UNITS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
KINDS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(48, 32),
    "conv1d": lambda: Conv1D(32, 48),
    "embedding": lambda: nn.Embedding(100, 48),
    "conv": lambda: nn.Conv2d(3, 32, 4),
    "norm": lambda: nn.LayerNorm(48),
}


class Model(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"layer": KINDS[kind](), "other": nn.Dropout()})
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))


def compared(adapted: nn.Module, merged: nn.Module, dtype: torch.dtype) -> Check:
    names = ["block.layer.weight", "block.layer", "block.other"]
    found = [{"": answers_of(model, names)} for model in (adapted, merged)]
    assert all(answers[""].keys() == {"block.layer"} for answers in found)
    return compare_layers(*found, unit=UNITS[dtype])


@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_rounding_passes_and_a_shift_does_not(kind: str, dtype: torch.dtype) -> None:
    exact = Model(kind)
    merged = copy.deepcopy(exact).to(dtype).float()
    assert compared(exact, merged, dtype).passed

    weight: Tensor = merged.get_parameter("block.layer.weight")
    weight.data.mul_(1.05)
    check = compared(exact, merged, dtype)

    assert (check.passed, check.where) == (False, "block.layer")
    assert check.value is not None
    assert check.value > 1


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv", "norm"])
def test_a_bias_counts(kind: str) -> None:
    exact = Model(kind)
    merged = copy.deepcopy(exact)
    merged.get_parameter("block.layer.bias").data[3] += 0.3

    assert not compared(exact, merged, torch.bfloat16).passed


def test_not_a_number_and_what_is_missing_fail() -> None:
    exact = Model("linear")
    broken = copy.deepcopy(exact)
    broken.get_parameter("block.layer.weight").data[0, 0] = torch.nan
    assert not compared(exact, broken, torch.float32).passed

    answers = {"": answers_of(exact, ["block.layer"])}
    check = compare_layers(answers, {"": {}}, unit=2.0**-24)
    assert (check.passed, check.where) == (False, "block.layer")


# With real models


def running(adapter: Path, base: Path, output: Path) -> Check:
    """As `ingraft verify` does it, in one process."""
    with quiet(), open_unadapted(adapter, base, trust_remote_code=False, dtype="float32") as unadapted:
        touched = unadapted.adapt()[""].touched
        live = answers_of(unadapted.parts[0].transformer, touched)
    layout = read_layout(output)
    model = load_model(layout, "merged", trust_remote_code=False, dtype="float32")
    plain = answers_of(transformers_by_folder(model, layout)[""], touched)
    assert len(live) >= 3
    return compare_layers({"": live}, {"": plain}, unit=2.0**-8)


def rescaled(edit: Edit) -> Edit:
    return replace(edit, settings={**edit.settings, "scale": 1.0})


def misplaced(plan: MergePlan) -> MergePlan:
    """The query of layer 0 for that of layer 1, and the other way round."""
    query = "encoder.layer.{}.attention.self.query.weight"
    edits = {step.tensor: step.edits for step in plan.steps()}
    turned = {query.format(0): edits[query.format(1)], query.format(1): edits[query.format(0)]}
    return with_edits(plan, turned)


def with_edits(plan: MergePlan, edits: Mapping[str, tuple[Edit, ...]]) -> MergePlan:
    shards = [
        replace(shard, steps=tuple(replace(step, edits=edits.get(step.tensor, step.edits)) for step in shard.steps))
        for shard in plan.shards
    ]
    return replace(plan, shards=tuple(shards))


def wrongly_scaled(plan: MergePlan) -> MergePlan:
    value = "encoder.layer.1.attention.self.value.weight"
    edits = {step.tensor: step.edits for step in plan.steps()}
    return with_edits(plan, {value: tuple(rescaled(edit) for edit in edits[value])})


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(misplaced, "encoder.layer.0.attention.self.query"), (wrongly_scaled, "encoder.layer.1.attention.self.value")],
)
def test_a_wrong_plan_fools_the_probes_and_not_the_layers(
    spoil: Callable[[MergePlan], MergePlan], named: str, tmp_path: Path
) -> None:
    base = sentence_base("bert", "bfloat16")
    adapter = sentence_adapter(base, lora_config("bert", modules_to_save=["pooler"]))
    plan = plan_merge(adapter)
    for name, chosen in (("right", plan), ("wrong", spoil(plan))):
        (tmp_path / name).mkdir()
        execute(chosen, tmp_path / name)
        assert all(check.passed for check in verify_weights(chosen, tmp_path / name))

    assert running(adapter, base, tmp_path / "right").passed
    check = running(adapter, base, tmp_path / "wrong")
    assert not check.passed
    assert named in check.where


@pytest.mark.parametrize("targets", [["c_attn", "c_proj"], ["wte", "c_fc"]])
def test_conv1d_and_embeddings_of_a_real_model(targets: list[str]) -> None:
    base = sentence_base("gpt2", "bfloat16")
    adapter = sentence_adapter(base, lora_config("gpt2", target_modules=targets))

    assert running(adapter, base, merged(adapter)).passed
    assert not running(adapter, base, base).passed


@pytest.mark.parametrize(
    ("config", "roundings"),
    [
        ({"peft_type": "LORA", "init_lora_weights": True}, 1),
        ({"peft_type": "LORA", "init_lora_weights": "olora"}, 2),
        ({"peft_type": "LORA", "kasa_config": {"beta": 1}}, 2),
        ({"peft_type": "OSF"}, 2),
        ({"peft_type": "FROD"}, 0),
    ],
)
def test_a_start_from_the_base_is_rounded_twice(config: dict[str, object], roundings: int, tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path, "base", **config))

    assert roundings_of(adapter.config) == roundings
