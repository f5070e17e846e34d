"""Every tensor of an adapter file has exactly one owner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from helpers.handmade import write_adapter
from ingraft.adapter import AdapterTensors, group_tensors, open_adapter
from ingraft.adapter.grouping import runtime_name
from ingraft.errors import UnusableInput
from ingraft.methods.method import Method

LORA = Method(
    "LORA",
    "LoRA",
    "streamed",
    tensors={
        ".lora_A.weight": "lora_A",
        ".lora_B.weight": "lora_B",
        ".lora_B.bias": "lora_bias",
        ".lora_embedding_A": "lora_embedding_A",
    },
)


def group(folder: Path, keys: Sequence[str], method: Method = LORA) -> AdapterTensors:
    adapter = open_adapter(write_adapter(folder, "base", tensors={key: torch.ones(2, 2) for key in keys}))
    grouped = group_tensors(adapter, method)
    owned = [key for target in grouped.targets for key in target.tensors.values()]
    owned += [*grouped.shared.values(), *(saved.key for saved in grouped.saved)]
    assert sorted(owned) == sorted(keys)
    return grouped


def test_targets(tmp_path: Path) -> None:
    keys = [
        f"base_model.model.layer.{n}.query.{name}" for n in (10, 2) for name in ("lora_A.weight", "lora_B.weight")
    ] + ["base_model.model.embed.lora_embedding_A"]

    grouped = group(tmp_path, keys)

    assert [target.module for target in grouped.targets] == ["embed", "layer.2.query", "layer.10.query"]
    target = grouped.targets[1]
    assert (target.weight, target.bias) == ("layer.2.query.weight", "layer.2.query.bias")
    assert target.tensors == {"lora_A": keys[2], "lora_B": keys[3]}
    assert (grouped.saved, grouped.shared, grouped.notes) == ((), {}, ())


def test_numbers_that_are_none_for_python(tmp_path: Path) -> None:
    keys = [f"base_model.model.layer.{n}.query.lora_A.weight" for n in ("²", "10", "2")]

    grouped = group(tmp_path, keys)

    assert [target.module for target in grouped.targets] == ["layer.2.query", "layer.10.query", "layer.².query"]


@pytest.mark.parametrize(
    ("key", "module", "parameter"),
    [
        ("a.lora_A.default.weight", "a", "lora_A"),
        ("a.lora_B.default.bias", "a", "lora_bias"),
        ("a.lora_embedding_A.default", "a", "lora_embedding_A"),
        ("_orig_mod.a.lora_A.weight", "a", "lora_A"),
        ("layer.0._checkpoint_wrapped_module.a.lora_A.weight", "layer.0.a", "lora_A"),
        ("_fsdp_wrapped_module.a.lora_A.default.weight", "a", "lora_A"),
        ("model.layers.0.lora_A.lora_A.weight", "model.layers.0.lora_A", "lora_A"),
    ],
)
def test_spellings_of_targets(key: str, module: str, parameter: str, tmp_path: Path) -> None:
    (target,) = group(tmp_path, [f"base_model.model.{key}"]).targets

    assert (target.module, list(target.tensors)) == (module, [parameter])


def test_wrappers_are_reported(tmp_path: Path) -> None:
    assert "_orig_mod" in group(tmp_path, ["base_model.model._orig_mod.a.lora_A.weight"]).notes[0]


@pytest.mark.parametrize(
    ("key", "parameter"),
    [
        ("classifier.weight", "classifier.weight"),
        ("classifier.modules_to_save.default.weight", "classifier.weight"),
        ("classifier.modules_to_save.bias", "classifier.bias"),
        ("a.query.base_layer.bias", "a.query.bias"),
        ("embed.base_layer.weight", "embed.weight"),
        ("_orig_mod.LayerNorm.bias", "LayerNorm.bias"),
        ("logit_scale", "logit_scale"),
    ],
)
def test_saved_parameters(key: str, parameter: str, tmp_path: Path) -> None:
    (saved,) = group(tmp_path, [f"base_model.model.{key}"]).saved

    assert (saved.parameter, saved.info.shape) == (parameter, (2, 2))


def test_shared_tensors(tmp_path: Path) -> None:
    method = Method(
        "VERA", "VeRA", "streamed", tensors={".vera_lambda_b": "b"}, shared={"vera_A": "A", "model.vera_B": "B"}
    )

    grouped = group(
        tmp_path, ["base_model.vera_A", "base_model.model.vera_B", "base_model.model.a.vera_lambda_b"], method
    )

    assert grouped.shared == {"A": "base_model.vera_A", "B": "base_model.model.vera_B"}


def test_replaced_parameters(tmp_path: Path) -> None:
    method = Method("X", "X", "streamed", replaces={".ln_tuning_layers.weight": "weight"})

    grouped = group(tmp_path, ["base_model.model.a.norm.ln_tuning_layers.weight"], method)

    assert [saved.parameter for saved in grouped.saved] == ["a.norm.weight"]


def test_longest_suffix_wins(tmp_path: Path) -> None:
    method = Method("X", "X", "streamed", tensors={".weight": "short", ".lora_A.weight": "long"})

    (target,) = group(tmp_path, ["base_model.model.a.lora_A.weight"], method).targets

    assert (target.module, list(target.tensors)) == ("a", ["long"])


@pytest.mark.parametrize("key", ["encoder.lora_A.weight", "model.a.lora_A.weight", "base_modela.lora_A.weight"])
def test_keys_of_something_else(key: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"does not begin with base_model\."):
        group(tmp_path, [key])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.lora_A.weight", "a.lora_A.default.weight"),
        ("a.lora_A.weight", "_orig_mod.a.lora_A.weight"),
    ],
)
def test_one_tensor_under_two_names(first: str, second: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="the same tensor under two names"):
        group(tmp_path, [f"base_model.model.{first}", f"base_model.model.{second}"])


BIASES = [
    f"base_model.model.{name}"
    for name in ("pooler.dense.bias", "pooler.modules_to_save.default.dense.bias", "pooler.original_module.dense.bias")
]


def saved_biases(folder: Path, values: dict[str, torch.Tensor]) -> AdapterTensors:
    return group_tensors(open_adapter(write_adapter(folder, "base", tensors=values)), LORA)


def test_trained_bias_twice_and_untrained(tmp_path: Path) -> None:
    """As PEFT writes it with bias="all" and modules_to_save."""
    trained, again, untrained = BIASES
    values = {trained: torch.ones(3), again: torch.ones(3), untrained: torch.zeros(3)}

    (saved,) = saved_biases(tmp_path, values).saved

    assert (saved.parameter, saved.key) == ("pooler.dense.bias", trained)
    assert {info.name for info in saved.inputs.values()} == set(BIASES)
    assert saved.inputs["value"].name == trained


@pytest.mark.parametrize("other", [torch.tensor([1.0, 1.0, 1.5]), torch.ones(3).half(), torch.ones(3, 1)])
def test_trained_bias_twice_with_different_numbers(other: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="the same tensor with different numbers"):
        saved_biases(tmp_path, {BIASES[0]: torch.ones(3), BIASES[1]: other})


@pytest.mark.parametrize("key", ["pooler.original_module.dense.bias", "pooler.dense.original_module.bias"])
def test_untrained_bias_stands_in_for_nothing(key: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"what pooler\.dense\.bias was before the training"):
        saved_biases(tmp_path, {f"base_model.model.{key}": torch.ones(3)})


def test_runtime_name() -> None:
    assert runtime_name("_orig_mod.encoder._orig_mod.layer") == "encoder.layer"
    assert runtime_name("encoder.layer") == "encoder.layer"
