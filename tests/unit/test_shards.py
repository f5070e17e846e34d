"""The output's weight files, tensor by tensor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.handmade import (
    HIDDEN,
    attention_modules,
    bert_shapes,
    lora_tensors,
    random_tensors,
    write_adapter,
    write_base,
)
from ingraft.adapter import SavedParameter
from ingraft.base_precision import Dequantised
from ingraft.checkpoint import Shard, TensorInfo, open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.execute import execute
from ingraft.plan import plan_merge
from ingraft.shards import edits_by_tensor, output_dtypes, output_name, plan_shards
from ingraft.steps import Edit
from ingraft.targets import PlacedEdit
from ingraft.ties import Twin


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("model.safetensors", "model.safetensors"),
        ("model-00001-of-00002.safetensors", "model-00001-of-00002.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("pytorch_model-00001-of-00002.bin", "model-00001-of-00002.safetensors"),
        ("pytorch_model.safetensors", "model.safetensors"),  # converted from a file of before torch 1.6
        ("other.safetensors", "other.safetensors"),
    ],
)
def test_names_of_files(before: str, after: str) -> None:
    assert output_name(Shard(Path("x") / before, (), {})) == after


@pytest.fixture
def edit(tmp_path: Path) -> Edit:
    base = write_base(tmp_path / "base")
    return next(iter(plan_merge(write_adapter(tmp_path / "adapter", base)).edits()))


def test_parts_of_one_tensor(edit: Edit) -> None:
    first, second = replace(edit, elements=(0, 64)), replace(edit, elements=(64, 128))

    found = edits_by_tensor([PlacedEdit("a", first), PlacedEdit("b", first), PlacedEdit("a", second)])

    assert found == {"a": (first, second), "b": (first,)}
    assert edits_by_tensor([PlacedEdit("a", first), PlacedEdit("a", first)]) == {"a": (first, first)}


@pytest.mark.parametrize("elements", [(0, 65), (63, 64), (0, 128), (32, 48)])
def test_overlapping_parts(elements: tuple[int, int], edit: Edit) -> None:
    with pytest.raises(UnusableInput, match="overlapping parts of a"):
        edits_by_tensor(
            [PlacedEdit("a", replace(edit, elements=(0, 64))), PlacedEdit("a", replace(edit, elements=elements))]
        )


def test_actions(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = write_adapter(tmp_path / "adapter", base)

    assert plan_merge(adapter).count("cast") == 0
    plan = plan_merge(adapter, dtype="float32")
    assert plan.count("copy") == 0
    assert {step.dtype for step in plan.steps()} == {"F32"}
    assert plan_merge(adapter, dtype="bfloat16").count("cast") == 0


def test_dequantised_tensors_are_rounded_into_the_models_dtype(tmp_path: Path) -> None:
    """So is a twin that is cut off from one of them."""
    checkpoint = open_checkpoint(write_base(tmp_path / "base"))
    name, other = "pooler.dense.weight", "embeddings.word_embeddings.weight"
    base = Dequantised(tmp_path, tmp_path, (), (), {name: "BF16", other: "BF16"}, "F16", "")
    saved = SavedParameter("classifier.weight", "x", replace(checkpoint.tensors["pooler.dense.bias"], dtype="BF16"))
    twin = Twin("lm_head.weight", checkpoint.tensors[other])

    def steps(asked: str | None, dequantised: Dequantised | None) -> dict[str, tuple[str, str]]:
        dtypes = output_dtypes(checkpoint, asked, dequantised)
        (shard,) = plan_shards(checkpoint, "", {}, [saved], [twin], dtypes)
        return {step.tensor: (step.action, step.dtype) for step in shard.steps}

    found = steps(None, base)
    expected = {name: ("cast", "BF16"), other: ("cast", "BF16")}
    added = {"classifier.weight": ("add", "F16"), "lm_head.weight": ("add", "BF16")}
    assert found == {**dict.fromkeys(bert_shapes(), ("copy", "F32")), **expected, **added}
    assert set(steps("F16", base).values()) == {("cast", "F16"), ("add", "F16")}
    assert set(steps(None, None).values()) == {("copy", "F32"), ("add", "F32")}


def test_metadata_is_the_bases_own(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    file = base / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "license": "mit"})
    adapter = write_adapter(tmp_path / "adapter", base)
    assert dict(plan_merge(adapter).shards[0].metadata) == {"format": "pt", "license": "mit"}

    # transformers refuses a file that does not say that it is torch's
    save_file(load_file(file), file)
    assert dict(plan_merge(adapter).shards[0].metadata) == {"format": "pt"}


def test_tensor_info_is_enough_for_a_size() -> None:
    info = TensorInfo("a", "BF16", (3, 4), Path("x"), 100, 124)

    assert (info.nbytes, info.elements) == (24, 12)


def test_integers_are_not_cast(tmp_path: Path) -> None:
    tensors = {**random_tensors(bert_shapes()), "embeddings.position_ids": torch.arange(32).unsqueeze(0)}
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base", tensors=tensors))

    steps = {step.tensor: step for step in plan_merge(adapter, dtype="bfloat16").steps()}

    assert (steps["embeddings.position_ids"].action, steps["embeddings.position_ids"].dtype) == ("copy", "I64")
    assert {step.dtype for name, step in steps.items() if name != "embeddings.position_ids"} == {"BF16"}


@pytest.mark.parametrize("value", [torch.randn(3, HIDDEN), torch.tensor(0.5)], ids=["matrix", "scalar"])
def test_what_the_base_lacks_goes_to_the_end_of_the_last_shard(value: torch.Tensor, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=3)
    tensors = lora_tensors(attention_modules(), bert_shapes())
    tensors["base_model.model.classifier.weight"] = value
    adapter = write_adapter(tmp_path / "adapter", base, tensors=tensors, modules_to_save=["classifier"])

    plan = plan_merge(adapter)

    assert [step.tensor for step in plan.steps() if step.action == "add"] == ["classifier.weight"]
    assert plan.shards[-1].steps[-1].tensor == "classifier.weight"
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")
    assert torch.equal(load_file(tmp_path / "out" / plan.shards[-1].file)["classifier.weight"], value)
