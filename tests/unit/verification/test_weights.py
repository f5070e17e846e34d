"""The weight proof: it passes what is right, and finds what is wrong, however small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.handmade import (
    HIDDEN,
    QUERY,
    VALUE,
    attention_modules,
    bert_shapes,
    change_tensors,
    lora_tensors,
    random_tensors,
    write_adapter,
    write_base,
)
from ingraft.execute import execute
from ingraft.plan import plan_merge
from ingraft.steps import MergePlan
from ingraft.verification import weights
from ingraft.verification.probe import ROW_LIMIT, ProbeResult
from ingraft.verification.report import Check
from ingraft.verification.truth import open_truth, random_input
from ingraft.verification.weights import verify_weights

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def merge(
    folder: Path, dtype: torch.dtype = torch.float32, *, size: float = 0.3, seed: int = 0, asked: str = "auto"
) -> MergePlan:
    """A merge of biases, a saved module and LoRA on two linears of each layer, written to `folder / "out"`."""
    base = write_base(folder / "base", tensors=random_tensors(bert_shapes(), seed=seed, dtype=dtype), shards=2)
    tensors = lora_tensors(attention_modules(), bert_shapes(), size=size, seed=seed + 1)
    extra = torch.Generator().manual_seed(seed)
    tensors["base_model.model.pooler.dense.weight"] = torch.randn(HIDDEN, HIDDEN, generator=extra)
    tensors[f"base_model.model.{QUERY}.lora_B.bias"] = torch.randn(HIDDEN, generator=extra)
    adapter = write_adapter(folder / "adapter", base, tensors=tensors, modules_to_save=["pooler"], lora_bias=True)
    plan = plan_merge(adapter, dtype=asked)  # type: ignore[arg-type]
    (folder / "out").mkdir()
    execute(plan, folder / "out")
    return plan


def checks(plan: MergePlan, folder: Path) -> dict[str, Check]:
    return {check.name: check for check in verify_weights(plan, folder / "out")}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0.3, 0.01, 1e-4])
def test_right_merges_pass(dtype: torch.dtype, size: float, tmp_path: Path) -> None:
    found = checks(merge(tmp_path, dtype, size=size), tmp_path)

    assert all(check.passed for check in found.values()), found
    assert (found["adapter tensors"].value, found["adapter tensors"].limit) == (10, 10)
    untouched = len(bert_shapes()) - 6
    assert (found["untouched tensors"].value, found["untouched tensors"].limit) == (untouched, untouched)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_right_merges_in_another_dtype_pass(asked: str, tmp_path: Path) -> None:
    found = checks(merge(tmp_path, torch.bfloat16, asked=asked), tmp_path)

    assert all(check.passed for check in found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_limits_are_not_met_by_chance(dtype: torch.dtype, tmp_path: Path) -> None:
    """Of forty right merges the worst probe stays below the limit, and not far below it: the limit is no formality."""
    ratios = []
    for seed in range(40):
        (tmp_path / str(seed)).mkdir()
        plan = merge(tmp_path / str(seed), dtype, seed=seed)
        ratios.append(float(checks(plan, tmp_path / str(seed))["probes"].value or 0))

    assert max(ratios) <= 1.0
    assert max(ratios) > 0.1


@pytest.fixture
def spoil(tmp_path: Path) -> Iterator[Callable[..., dict[str, Check]]]:
    """Makes a right merge, changes one tensor of its output, and returns the checks."""

    def arrange(name: str, change: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Check]:
        plan = merge(tmp_path, dtype)
        file = next(tmp_path / "out" / shard.file for shard in plan.shards if name in {s.tensor for s in shard.steps})
        value = load_file(file)[name]
        changed = change(value.clone())
        change_tensors(file, {name: changed.to(value.dtype) if changed.is_floating_point() else changed})
        return checks(plan, tmp_path)

    return arrange


def at(row: int, column: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def apply(value: Tensor) -> Tensor:
        value[row, column] = change(value[row, column])
        return value

    return apply


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "one element is zero": at(3, 5, lambda x: x * 0),
    "one element has the other sign": at(0, 0, lambda x: -x),
    "one element is off by a tenth": at(15, 15, lambda x: x + 0.1),
    "one element is not a number": at(7, 2, lambda x: x * torch.nan),
    "two columns are exchanged": lambda w: w[:, [1, 0, *range(2, HIDDEN)]],
    "two rows are exchanged": lambda w: w[[1, 0, *range(2, HIDDEN)]],
    "transposed": lambda w: w.T.contiguous(),
    "one percent larger": lambda w: w * 1.01,
    "one row is missing": lambda w: torch.cat([w[:5], torch.zeros(1, HIDDEN, dtype=w.dtype), w[6:]]),
    "all zeros": torch.zeros_like,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_edited_tensors_are_found(
    fault: str, dtype: torch.dtype, spoil: Callable[..., dict[str, Check]]
) -> None:
    found = spoil(f"{QUERY}.weight", FAULTS[fault], dtype)

    assert not found["probes"].passed
    assert QUERY in found["probes"].where
    assert found["untouched tensors"].passed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_unmerged_weight_is_found(dtype: torch.dtype, tmp_path: Path) -> None:
    """Nothing matched, and the merged model is the base: the fault that this all began with."""
    plan = merge(tmp_path, dtype)
    step = next(step for step in plan.steps() if step.tensor == f"{VALUE}.weight")
    assert step.source is not None
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if step in shard.steps)
    change_tensors(file, {step.tensor: load_file(step.source.file)[step.tensor]})

    found = checks(plan, tmp_path)

    assert not found["probes"].passed
    assert VALUE in found["probes"].where


@pytest.mark.parametrize("factor", [0.0, 0.99, 1.01, 2.0, -1.0])
def test_wrong_scale_is_found(factor: float, tmp_path: Path) -> None:
    """One percent of the delta in float32; the doubled delta is the adapter applied twice."""
    plan = merge(tmp_path)
    step = next(step for step in plan.steps() if step.tensor == f"{VALUE}.weight")
    assert step.source is not None
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if step in shard.steps)
    base, result = load_file(step.source.file)[step.tensor], load_file(file)[step.tensor]
    change_tensors(file, {step.tensor: base + factor * (result - base)})

    assert not checks(plan, tmp_path)["probes"].passed


def test_second_rounding_is_found(tmp_path: Path) -> None:
    """A delta that went through bfloat16 on its way is not what was asked for."""
    plan = merge(tmp_path)
    step = next(step for step in plan.steps() if step.tensor == f"{VALUE}.weight")
    assert step.source is not None
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if step in shard.steps)
    base, result = load_file(step.source.file)[step.tensor], load_file(file)[step.tensor]
    change_tensors(file, {step.tensor: base + (result - base).to(torch.bfloat16).float()})

    assert not checks(plan, tmp_path)["probes"].passed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_that_is_off_is_found(dtype: torch.dtype, spoil: Callable[..., dict[str, Check]]) -> None:
    def nudge(bias: Tensor) -> Tensor:
        bias[4] = bias[4] * 1.02 + 0.01
        return bias

    assert not spoil(f"{QUERY}.bias", nudge, dtype)["probes"].passed


def test_bias_that_is_off_by_a_ten_thousandth_is_found(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    name = f"{QUERY}.bias"
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if name in {s.tensor for s in shard.steps})
    change_tensors(file, {name: load_file(file)[name] * 1.0001})

    assert not checks(plan, tmp_path)["probes"].passed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saved_module_that_is_off_is_found(dtype: torch.dtype, spoil: Callable[..., dict[str, Check]]) -> None:
    """By a single bit."""

    def flip(value: Tensor) -> Tensor:
        value.view(torch.uint8)[2, 4] ^= 1
        return value

    assert not spoil("pooler.dense.weight", flip, dtype)["probes"].passed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", ["embeddings.word_embeddings.weight", "pooler.dense.bias", "embeddings.LayerNorm.weight"]
)
def test_untouched_tensor_that_is_off_is_found(
    name: str, dtype: torch.dtype, spoil: Callable[..., dict[str, Check]]
) -> None:
    def flip(value: Tensor) -> Tensor:
        value.view(torch.uint8).flatten()[-3] ^= 1
        return value

    found = spoil(name, flip, dtype)["untouched tensors"]

    assert not found.passed
    assert name in found.where
    assert found.value == (found.limit or 0) - 1


def test_not_a_number_in_the_base_is_equal_to_itself(tmp_path: Path) -> None:
    """Bytes are compared, not numbers."""
    tensors = random_tensors(bert_shapes())
    tensors["embeddings.LayerNorm.weight"][2] = torch.nan
    base = write_base(tmp_path / "base", tensors=tensors)
    plan = plan_merge(write_adapter(tmp_path / "adapter", base))
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")

    assert checks(plan, tmp_path)["untouched tensors"].passed


# Files


def test_missing_shard_is_found(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    (tmp_path / "out" / plan.shards[1].file).unlink()

    (found,) = checks(plan, tmp_path).values()

    assert not found.passed
    assert plan.shards[1].file in found.where


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("dropped", "is missing, planned F32 [16]"),
        ("added", "is F32 [2], planned none"),
        ("reshaped", "is F32 [1, 16], planned F32 [16]"),
        ("cast", "is F16 [16], planned F32 [16]"),
    ],
)
def test_other_structure_is_found(change: str, said: str, tmp_path: Path) -> None:
    plan = merge(tmp_path)
    name = "pooler.dense.bias"
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if name in {s.tensor for s in shard.steps})
    value = load_file(file)[name]
    changes: dict[str, dict[str, Tensor | None]] = {
        "dropped": {name: None},
        "added": {"lora_A": torch.ones(2)},
        "reshaped": {name: value.reshape(1, -1)},
        "cast": {name: value.half()},
    }
    change_tensors(file, changes[change])

    (found,) = checks(plan, tmp_path).values()

    assert not found.passed
    assert found.where == f"{'lora_A' if change == 'added' else name} in {file.name} {said}"


def test_other_metadata_are_found(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    file = tmp_path / "out" / plan.shards[0].file
    save_file(load_file(file), file, metadata={"format": "pt", "author": "somebody"})

    (found,) = checks(plan, tmp_path).values()

    assert not found.passed
    assert "metadata" in found.where


def test_tensor_that_left_the_adapter_is_found(tmp_path: Path) -> None:
    """After the plan was made: what it says that was used is no longer there."""
    plan = merge(tmp_path)
    (file,) = plan.adapter.weights
    change_tensors(file, {next(iter(load_file(file))): None})

    found = next(check for check in weights._checks(plan, []) if check.name == "adapter tensors")

    assert (found.passed, found.value, found.limit) == (False, found.limit, found.limit)


def test_parts_of_a_weight_are_joined_by_their_rows(tmp_path: Path) -> None:
    """In whatever order the plan comes to them."""
    plan = merge(tmp_path)
    step = next(step for step in plan.steps() if step.tensor == f"{QUERY}.weight")
    (edit,) = step.edits
    half = HIDDEN // 2
    first = replace(edit, elements=(0, half * HIDDEN), rows=(0, half))
    last = replace(edit, elements=(half * HIDDEN, HIDDEN * HIDDEN), rows=(half, HIDDEN))
    with open_truth(plan) as truth:
        found = truth._joined([(step, last), (step, first)])

    assert step.source is not None
    assert np.array_equal(found, load_file(step.source.file)[step.tensor].numpy())


def test_truncated_file_is_found(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    file = tmp_path / "out" / plan.shards[0].file
    file.write_bytes(file.read_bytes()[:-1])

    (found,) = checks(plan, tmp_path).values()

    assert not found.passed


def test_missing_small_file_is_found(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    (tmp_path / "out" / "config.json").unlink()

    (found,) = checks(plan, tmp_path).values()

    assert "config.json" in found.where


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "0_Transformer/adapter_model.bin"]
)
def test_adapter_left_behind_is_found(name: str, tmp_path: Path) -> None:
    plan = merge(tmp_path)
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("{}")

    found = checks(plan, tmp_path)["no adapter left"]

    assert not found.passed
    assert found.where == name


def test_adapter_tensor_without_a_use_is_found(tmp_path: Path) -> None:
    """The file is read again, not the plan believed."""
    plan = merge(tmp_path)
    change_tensors(
        tmp_path / "adapter" / "adapter_model.safetensors", {"base_model.model.x.lora_A.weight": torch.ones(2)}
    )
    plan = plan_with_current_offsets(plan, tmp_path)

    found = checks(plan, tmp_path)["adapter tensors"]

    assert not found.passed
    assert "base_model.model.x.lora_A.weight" in found.where


def plan_with_current_offsets(plan: MergePlan, folder: Path) -> MergePlan:
    """The plan over the adapter file as it is now: its tensors have moved within the file."""
    from ingraft.checkpoint import read_header

    now = {info.name: info for info in read_header(folder / "adapter" / "adapter_model.safetensors").tensors}
    shards = []
    for shard in plan.shards:
        steps = []
        for step in shard.steps:
            edits = tuple(
                replace(edit, inputs={name: now[info.name] for name, info in edit.inputs.items()})
                for edit in step.edits
            )
            steps.append(replace(step, edits=edits))
        shards.append(replace(shard, steps=tuple(steps)))
    return replace(plan, shards=tuple(shards))


# Kinds of layers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("right", [True, False])
def test_conv1d(dtype: torch.dtype, right: bool, tmp_path: Path) -> None:
    """A square matrix that is stored the other way round."""
    name = "h.0.attn.c_proj"
    shapes = {f"{name}.weight": (24, 24), f"{name}.bias": (24,), "wte.weight": (30, 24)}
    base = write_base(
        tmp_path / "base",
        tensors=random_tensors(shapes, dtype=dtype),
        config={"model_type": "gpt2", "architectures": ["GPT2Model"]},
    )
    adapter = write_adapter(tmp_path / "adapter", base, tensors=lora_tensors([name], shapes), target_modules=["c_proj"])
    plan = plan_merge(adapter)
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")
    if not right:
        file = tmp_path / "out" / "model.safetensors"
        before, after = load_file(base / "model.safetensors")[f"{name}.weight"], load_file(file)[f"{name}.weight"]
        change_tensors(file, {f"{name}.weight": before + (after - before).T})

    assert checks(plan, tmp_path)["probes"].passed is right


def test_empty_tensors_and_scalars(tmp_path: Path) -> None:
    tensors = {**random_tensors(bert_shapes()), "none": torch.empty(0, 3), "scale": torch.tensor(2.0)}
    base = write_base(tmp_path / "base", tensors=tensors)
    plan = plan_merge(write_adapter(tmp_path / "adapter", base))
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")

    assert all(check.passed for check in checks(plan, tmp_path).values())
    assert load_file(tmp_path / "out" / "model.safetensors")["scale"] == 2.0


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    plan = merge(tmp_path)
    done: list[int] = []

    verify_weights(plan, tmp_path / "out", workers=3, progress=done.append)

    assert sum(done) == sum(step.nbytes for step in plan.steps())


def test_nothing_is_changed(tmp_path: Path) -> None:
    from helpers.files import snapshot

    plan = merge(tmp_path)
    before = snapshot(tmp_path)
    verify_weights(plan, tmp_path / "out")

    assert snapshot(tmp_path) == before


def test_not_a_number_is_beyond_the_limit() -> None:
    assert ProbeResult("x", 1.0).passed
    assert not ProbeResult("x", float("nan")).passed
    assert not ProbeResult("x", 1.0001).passed
    assert ROW_LIMIT > 1


def test_random_input_is_the_same_for_the_same_seed() -> None:
    assert np.array_equal(random_input(5, 1), random_input(5, 1))
    assert not np.array_equal(random_input(5, 1), random_input(5, 2))


@pytest.mark.parametrize("asked", ["bfloat16", "float16"])
def test_untouched_tensor_in_another_dtype_that_is_off_is_found(asked: str, tmp_path: Path) -> None:
    """By a single bit."""
    plan = merge(tmp_path, asked=asked)
    step = next(step for step in plan.steps() if step.action == "cast")
    file = next(tmp_path / "out" / shard.file for shard in plan.shards if step in shard.steps)
    value = load_file(file)[step.tensor]
    value.view(torch.uint8).flatten()[-2] ^= 1
    change_tensors(file, {step.tensor: value})

    found = checks(plan, tmp_path)["untouched tensors"]

    assert not found.passed
    assert step.tensor in found.where


@pytest.mark.parametrize("part", [1000, 10_000])
def test_small_error_is_found_where_peft_is_asked(part: int, tmp_path: Path) -> None:
    """(IA)³ is answered by PEFT's layer, whose arithmetic may lose more than two small products, but not much."""
    base = write_base(tmp_path / "base")
    scales = {f"base_model.model.{QUERY}.ia3_l": 1 + torch.arange(HIDDEN).reshape(-1, 1) / 10}
    adapter = write_adapter(
        tmp_path / "adapter", base, tensors=scales, peft_type="IA3", target_modules=[QUERY], feedforward_modules=[]
    )
    plan = plan_merge(adapter)
    (tmp_path / "out").mkdir()
    execute(plan, tmp_path / "out")
    assert checks(plan, tmp_path)["probes"].passed
    file, name = tmp_path / "out" / "model.safetensors", f"{QUERY}.weight"
    noise = torch.randn(HIDDEN, HIDDEN, generator=torch.Generator().manual_seed(0))
    change_tensors(file, {name: load_file(file)[name] * (1 + noise / part)})

    assert not checks(plan, tmp_path)["probes"].passed
