"""Bad input: exit code 2, the reason in one line, nothing written, nothing touched."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.files import edit_json, raw_file, snapshot, write_json
from helpers.handmade import (
    HIDDEN,
    QUERY,
    attention_modules,
    bert_shapes,
    change_tensors,
    load_json,
    lora_tensors,
    random_tensors,
    write_adapter,
    write_base,
    write_modules,
)
from helpers.merging import Run, cli

KEY = f"base_model.model.{QUERY}"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "in" / "base")


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return write_adapter(tmp_path / "in" / "adapter", base)


def refused(tmp_path: Path, adapter: Path | str, *options: str | Path) -> str:
    """Merge, check that it is refused as it should be, and return the reason."""
    before = snapshot(tmp_path)
    run = cli("merge", adapter, tmp_path / "out", *options)
    check_refusal(run)
    assert snapshot(tmp_path) == before
    return run.err


def check_refusal(run: Run) -> None:
    assert run.code == 2, run
    first, *hints = run.err.splitlines()
    assert first.startswith("error: ")
    assert len(first) > 20
    assert all(hint.startswith("  ") and hint.strip() for hint in hints)
    assert "Traceback" not in run.err


def test_the_inputs_themselves_are_fine(tmp_path: Path, adapter: Path) -> None:
    """Every refusal below is for its one fault."""
    assert cli("merge", adapter, tmp_path / "out").code == 0


# The adapter and the base do not belong together


def test_base_of_another_width(tmp_path: Path, base: Path, adapter: Path) -> None:
    shapes = {
        name: tuple(2 * size if size == HIDDEN else size for size in shape) for name, shape in bert_shapes().items()
    }
    write_base(base, tensors=random_tensors(shapes), config={"hidden_size": 2 * HIDDEN})

    assert f"{QUERY}: lora_A has" in refused(tmp_path, adapter)


def test_base_with_fewer_layers(tmp_path: Path, base: Path, adapter: Path) -> None:
    write_base(base, tensors=random_tensors(bert_shapes(layers=1)), config={"num_hidden_layers": 1})

    reason = refused(tmp_path, adapter)

    assert "4 of 8 adapter tensors fit nothing in the base" in reason
    assert "encoder.layer.1.attention.self.query has no weight" in reason


def test_base_with_more_layers(tmp_path: Path, base: Path, adapter: Path) -> None:
    """The adapter of a smaller model has the right shapes and covers only a part."""
    write_base(base, tensors=random_tensors(bert_shapes(layers=3)), config={"num_hidden_layers": 3})

    assert "encoder.layer.2.attention.self" in refused(tmp_path, adapter)


def test_adapter_of_another_architecture(tmp_path: Path, base: Path) -> None:
    shapes = {f"model.layers.{n}.self_attn.q_proj.weight": (HIDDEN, HIDDEN) for n in (0, 1)}
    tensors = lora_tensors([name.removesuffix(".weight") for name in shapes], shapes)
    adapter = write_adapter(tmp_path / "in" / "adapter", base, tensors=tensors, target_modules=["q_proj"])

    reason = refused(tmp_path, adapter)

    assert "4 of 4 adapter tensors fit nothing in the base" in reason
    assert "ingraft inspect" in reason


def test_base_is_named_in_the_reason(tmp_path: Path, base: Path, adapter: Path) -> None:
    other = write_base(
        tmp_path / "in" / "other", tensors=random_tensors(bert_shapes(1)), config={"num_hidden_layers": 1}
    )

    reason = refused(tmp_path, adapter, "--base", other)

    assert f"The adapter names the base {base}" in reason


@pytest.mark.parametrize(
    ("side", "shape"),
    [("A", (4, HIDDEN - 1)), ("A", (3, HIDDEN)), ("B", (HIDDEN, 3)), ("B", (HIDDEN + 1, 4)), ("A", (0,)), ("B", (0,))],
)
def test_tensor_of_another_shape(side: str, shape: tuple[int, ...], tmp_path: Path, adapter: Path) -> None:
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_{side}.weight": torch.ones(shape)})

    assert QUERY in refused(tmp_path, adapter)


@pytest.mark.parametrize("rank", [8, 3])
def test_rank_of_another_adapter(rank: int, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, r=rank)

    assert "rank" in refused(tmp_path, adapter) or "shape" in refused(tmp_path, adapter)


@pytest.mark.parametrize("side", ["A", "B"])
def test_half_of_a_layer_is_missing(side: str, tmp_path: Path, adapter: Path) -> None:
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_{side}.weight": None})

    assert f"lora_{side}" in refused(tmp_path, adapter)


def test_layer_is_missing(tmp_path: Path, adapter: Path) -> None:
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_A.weight": None, f"{KEY}.lora_B.weight": None})

    assert f"no tensors for {QUERY}" in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    "key",
    [
        f"{KEY}.lora_C.weight",
        f"{KEY}.lora_magnitude_vector",
        f"{KEY}.adapter_scale",
        "base_model.model.classifier.weight",
        "base_model.model.lora_A",
        "something.else",
        f"{KEY}.lora_A.other.weight",
    ],
)
def test_stray_tensor(key: str, tmp_path: Path, adapter: Path) -> None:
    change_tensors(adapter / WEIGHTS, {key: torch.ones(HIDDEN)})

    assert key in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pooler.dense.weight", (HIDDEN + 1, HIDDEN)),
        ("pooler.dense.weight", (HIDDEN, HIDDEN + 1)),
        ("pooler.dense.bias", (HIDDEN + 1,)),
        ("encoder.layer.0.output.LayerNorm.weight", (1,)),
        ("encoder.layer.0.output.LayerNorm.weight", ()),
        ("embeddings.word_embeddings.weight", (50, HIDDEN + 1)),
    ],
)
def test_saved_parameter_of_another_shape(name: str, shape: tuple[int, ...], tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, modules_to_save=["pooler", "LayerNorm", "word_embeddings"])
    change_tensors(adapter / WEIGHTS, {f"base_model.model.{name}": torch.ones(shape)})

    assert name in refused(tmp_path, adapter)


def test_bias_where_the_base_has_none(tmp_path: Path, base: Path, adapter: Path) -> None:
    change_tensors(base / "model.safetensors", {f"{QUERY}.bias": None})
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_B.bias": torch.ones(HIDDEN)})
    edit_json(adapter / CONFIG, lora_bias=True)

    assert QUERY in refused(tmp_path, adapter)


# The base cannot be found


def test_no_base_named(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, base_model_name_or_path=None)

    assert "--base" in refused(tmp_path, adapter)


def test_base_on_another_machine(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, base_model_name_or_path="/home/somebody/models/base")

    reason = refused(tmp_path, adapter)

    assert "/home/somebody/models/base does not exist" in reason
    assert "--base" in reason


def test_base_on_a_hub_that_is_not_reached(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, base_model_name_or_path="somebody/base")

    assert "somebody/base" in refused(tmp_path, adapter)


def test_named_base_does_not_exist(tmp_path: Path, base: Path, adapter: Path) -> None:
    assert "(nearest: base)" in refused(tmp_path, adapter, "--base", tmp_path / "in" / "bose")


def test_base_is_the_adapter(tmp_path: Path, adapter: Path) -> None:
    assert "is itself an adapter" in refused(tmp_path, adapter, "--base", adapter)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_base_is_incomplete(file: str, tmp_path: Path, base: Path, adapter: Path) -> None:
    (base / file).unlink()

    assert file in refused(tmp_path, adapter)


def test_adapter_does_not_exist(tmp_path: Path, adapter: Path) -> None:
    assert "(nearest: adapter)" in refused(tmp_path, tmp_path / "in" / "adaptor")


def test_adapter_is_a_file(tmp_path: Path, adapter: Path) -> None:
    assert "is a file" in refused(tmp_path, adapter / WEIGHTS)


def test_adapter_is_a_full_model(tmp_path: Path, base: Path) -> None:
    assert "is a full model, not an adapter" in refused(tmp_path, base)


def test_adapter_is_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert "no adapter_config.json" in refused(tmp_path, tmp_path / "empty")


# Files are unsound


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(10))


def point(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aaa\nsize 1\n")


def claim(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + content[8:])


def overlap(path: Path) -> None:
    rewrite(path, lambda entries: [entry.update(data_offsets=entries[0]["data_offsets"]) for entry in entries])


def leave(path: Path) -> None:
    rewrite(
        path,
        lambda entries: [entry.update(data_offsets=[o + 4096 for o in entry["data_offsets"]]) for entry in entries],
    )


def rewrite(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change([entry for name, entry in header.items() if name != "__metadata__"])
    path.write_bytes(raw_file(header, content[8 + length :]))


@pytest.mark.parametrize("damage", [cut, halve, empty, lengthen, point, claim, overlap, leave])
@pytest.mark.parametrize("which", ["adapter", "base", "shard"])
def test_damaged_safetensors(
    damage: Callable[[Path], None], which: str, tmp_path: Path, base: Path, adapter: Path
) -> None:
    file = adapter / WEIGHTS if which == "adapter" else base / "model.safetensors"
    if which == "shard":
        shutil.rmtree(base)
        file = write_base(base, shards=2) / "model-00002-of-00002.safetensors"
    damage(file)

    assert file.name in refused(tmp_path, adapter)


def test_missing_shard(tmp_path: Path, base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    write_base(base, shards=2)
    (base / "model-00002-of-00002.safetensors").unlink()

    assert "model-00002-of-00002.safetensors, which does not exist" in refused(tmp_path, adapter)


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd"])
def test_index_leaves_the_directory(name: str, tmp_path: Path, base: Path, adapter: Path) -> None:
    shutil.rmtree(base)
    write_base(base, shards=2)
    save_file({f"{QUERY}.weight": torch.ones(HIDDEN, HIDDEN)}, tmp_path / "secret.safetensors")
    index = load_json(base / INDEX)
    index["weight_map"][f"{QUERY}.weight"] = name
    write_json(base / INDEX, index)

    assert "outside" in refused(tmp_path, adapter)


@pytest.mark.parametrize("which", ["adapter", "base"])
@pytest.mark.parametrize("path", ["../..", "/etc", "a/../../.."])
def test_modules_leave_the_directory(path: str, which: str, tmp_path: Path, base: Path, adapter: Path) -> None:
    folder = {"adapter": adapter, "base": base}[which]
    write_modules(folder)
    modules = load_json(folder / "modules.json")
    modules[1]["path"] = path
    write_json(folder / "modules.json", modules)

    assert "outside" in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    "file", ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "config.json"]
)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"3", b"[" * 100_000])
def test_unreadable_json_in_the_base(file: str, content: bytes, tmp_path: Path, base: Path, adapter: Path) -> None:
    write_modules(base)
    (base / file).write_bytes(content)

    assert file in refused(tmp_path, adapter)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"3", b"[]", b'{"r": ' + b"9" * 5000 + b"}"])
def test_unreadable_adapter_config(content: bytes, tmp_path: Path, adapter: Path) -> None:
    (adapter / CONFIG).write_bytes(content)

    assert CONFIG in refused(tmp_path, adapter)


# Numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapter_that_diverged(value: float, dtype: torch.dtype, tmp_path: Path, adapter: Path) -> None:
    broken = torch.ones(4, HIDDEN, dtype=dtype)
    broken[2, 3] = value
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_A.weight": broken})

    assert f"{KEY}.lora_A.weight holds NaN or infinity" in refused(tmp_path, adapter)


def test_nothing_is_written_outside_the_work_either(tmp_path: Path, adapter: Path) -> None:
    """A fault that shows while the result is written leaves no parents of the output."""
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_A.weight": torch.full((4, HIDDEN), torch.nan)})
    before = snapshot(tmp_path)

    run = cli("merge", adapter, tmp_path / "new" / "deep" / "out")

    check_refusal(run)
    assert snapshot(tmp_path) == before


def test_saved_module_that_diverged(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, modules_to_save=["pooler"])
    change_tensors(adapter / WEIGHTS, {"base_model.model.pooler.dense.bias": torch.full((HIDDEN,), torch.nan)})

    assert "pooler.dense.bias holds NaN or infinity" in refused(tmp_path, adapter)


def test_result_that_overflows(tmp_path: Path, adapter: Path) -> None:
    huge = {
        f"{KEY}.lora_{side}.weight": torch.full(shape, 1e30) for side, shape in (("A", (4, HIDDEN)), ("B", (HIDDEN, 4)))
    }
    change_tensors(adapter / WEIGHTS, huge)

    assert f"{QUERY}.weight" in refused(tmp_path, adapter)


@pytest.mark.parametrize("how", ["stored", "asked for"])
def test_result_that_float16_cannot_hold(how: str, tmp_path: Path, base: Path, adapter: Path) -> None:
    large = {
        f"{KEY}.lora_{side}.weight": torch.full(shape, 300.0)
        for side, shape in (("A", (4, HIDDEN)), ("B", (HIDDEN, 4)))
    }
    change_tensors(adapter / WEIGHTS, large)
    if how == "stored":
        write_base(base, dtype=torch.float16)

    reason = refused(tmp_path, adapter, *(["--dtype", "float16"] if how == "asked for" else []))

    assert "float16 cannot hold" in reason
    assert "--dtype" in reason


def test_untouched_tensor_that_float16_cannot_hold(tmp_path: Path, base: Path, adapter: Path) -> None:
    change_tensors(base / "model.safetensors", {"pooler.dense.weight": torch.full((HIDDEN, HIDDEN), 1e6)})

    assert "pooler.dense.weight" in refused(tmp_path, adapter, "--dtype", "float16")


def test_base_that_is_broken_where_it_is_edited(tmp_path: Path, base: Path, adapter: Path) -> None:
    broken = torch.ones(HIDDEN, HIDDEN)
    broken[3, 3] = torch.nan
    change_tensors(base / "model.safetensors", {f"{QUERY}.weight": broken})

    assert f"{QUERY}.weight" in refused(tmp_path, adapter)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), "eight", None, [8], 0])
def test_alpha_that_is_no_number(alpha: Any, tmp_path: Path, adapter: Path) -> None:
    config = load_json(adapter / CONFIG)
    write_json(adapter / CONFIG, {**config, "lora_alpha": alpha})

    refused(tmp_path, adapter)


@pytest.mark.parametrize("rank", [0, -1, "four", None, 4.0, True, [4]])
def test_rank_that_is_no_number(rank: Any, tmp_path: Path, adapter: Path) -> None:
    config = load_json(adapter / CONFIG)
    write_json(adapter / CONFIG, {**config, "r": rank})

    refused(tmp_path, adapter)


@pytest.mark.parametrize("name", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("pattern", [{"(": 4}, {"query": "x"}, {"query": None}, ["query"], "query", {"query": 0}])
def test_odd_patterns(name: str, pattern: Any, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, **{name: pattern, "lora_alpha": 0} if pattern == {"query": 0} else {name: pattern})

    refused(tmp_path, adapter)


@pytest.mark.parametrize("targets", [3, {"a": 1}, [1, 2], "(query"])
def test_odd_targets_do_not_matter_where_the_tensors_say_it(targets: Any, tmp_path: Path, adapter: Path) -> None:
    """Merged or refused, but never a traceback."""
    edit_json(adapter / CONFIG, target_modules=targets)

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 0 or check_refusal(run) is None


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_adapter_of_another_kind_of_numbers(dtype: torch.dtype, tmp_path: Path, adapter: Path) -> None:
    change_tensors(adapter / WEIGHTS, {f"{KEY}.lora_A.weight": torch.ones(4, HIDDEN).to(dtype)})

    refused(tmp_path, adapter)


# Methods


@pytest.mark.parametrize("peft_type", ["LOAR", "lora2", "", "../x", "{}"])
def test_unknown_method(peft_type: str, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, peft_type=peft_type)

    assert "peft_type" in refused(tmp_path, adapter)


def test_unknown_method_is_given_the_nearest(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, peft_type="LORRA")

    assert "(nearest: LORA)" in refused(tmp_path, adapter)


@pytest.mark.parametrize(
    "peft_type", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "XLORA", "POLY", "CPT"]
)
def test_method_that_no_merge_can_express(peft_type: str, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, peft_type=peft_type)

    assert "cannot be merged" in refused(tmp_path, adapter)


@pytest.mark.parametrize("peft_type", ["IA3", "LOHA", "OFT", "VERA", "ADALORA", "LN_TUNING"])
def test_type_that_does_not_fit_the_tensors(peft_type: str, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, peft_type=peft_type)

    refused(tmp_path, adapter)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_training_changed_the_base_and_did_not_save_it(start: str, tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, init_lora_weights=start)

    refused(tmp_path, adapter)


def test_layers_that_were_replicated(tmp_path: Path, adapter: Path) -> None:
    edit_json(adapter / CONFIG, layer_replication=[[0, 2], [1, 2]])

    refused(tmp_path, adapter)


# Quantised bases


def test_four_bit_base(tmp_path: Path, base: Path, adapter: Path) -> None:
    """bitsandbytes packs two numbers into a byte and keeps the layer's name."""
    quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    edit_json(base / "config.json", quantization_config=quantization)
    packed = torch.zeros(HIDDEN * HIDDEN // 2, 1, dtype=torch.uint8)
    change_tensors(base / "model.safetensors", {f"{module}.weight": packed.clone() for module in attention_modules()})

    reason = refused(tmp_path, adapter)

    assert "quantised" in reason
    assert "bitsandbytes" in reason
    assert "--base" in reason


def test_eight_bit_float_base(tmp_path: Path, base: Path, adapter: Path) -> None:
    edit_json(base / "config.json", quantization_config={"quant_method": "fp8"})
    weights = load_file(base / "model.safetensors")
    change_tensors(
        base / "model.safetensors",
        {f"{module}.weight": weights[f"{module}.weight"].to(torch.float8_e4m3fn) for module in attention_modules()},
    )

    reason = refused(tmp_path, adapter)

    assert "F8_E4M3" in reason or "fp8" in reason


def test_packed_base_under_other_names(tmp_path: Path, base: Path, adapter: Path) -> None:
    """GPTQ and AWQ replace the weight by qweight, qzeros and scales: the reason is not that nothing fits."""
    edit_json(base / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    changes: dict[str, torch.Tensor | None] = {}
    for module in attention_modules():
        changes[f"{module}.weight"] = None
        changes[f"{module}.qweight"] = torch.zeros(2, HIDDEN, dtype=torch.int32)
        changes[f"{module}.scales"] = torch.ones(1, HIDDEN, dtype=torch.float16)
    change_tensors(base / "model.safetensors", changes)

    reason = refused(tmp_path, adapter)

    assert "gptq" in reason
    assert "--base" in reason


# Code


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').write('run')",))


@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("which", ["adapter", "base"])
def test_pickled_weights_with_code_in_them(which: str, how: str, tmp_path: Path, base: Path, adapter: Path) -> None:
    folder, names = {
        "adapter": (adapter, (WEIGHTS, "adapter_model.bin")),
        "base": (base, ("model.safetensors", "pytorch_model.bin")),
    }[which]
    state = {**load_file(folder / names[0]), "more": Bomb(tmp_path / "marker")}
    (folder / names[0]).unlink()
    if how == "bare":
        (folder / names[1]).write_bytes(pickle.dumps(Bomb(tmp_path / "marker"), protocol=2))
    else:
        torch.save(state, folder / names[1], _use_new_zipfile_serialization=how == "zip")

    assert names[1] in refused(tmp_path, adapter)
    assert not (tmp_path / "marker").exists()


def test_pickled_weights_that_are_not_looked_at(tmp_path: Path, base: Path, adapter: Path) -> None:
    """A trainer's pickles beside the adapter are neither read nor carried."""
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth"):
        (adapter / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))

    assert cli("merge", adapter, tmp_path / "out").code == 0
    assert not (tmp_path / "marker").exists()
    assert not {"training_args.bin", "optimizer.pt", "rng_state.pth"} & {
        path.name for path in (tmp_path / "out").iterdir()
    }


# The output


def test_output_not_empty(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")

    reason = refused(tmp_path, adapter)

    assert "is not empty" in reason
    assert "--overwrite" in reason


def test_output_holds_something_else(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")

    assert "holds no model, so it is not replaced" in refused(tmp_path, adapter, "--overwrite")


def test_output_is_a_file(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "out").write_text("mine")

    assert "is a file" in refused(tmp_path, adapter, "--overwrite")


@pytest.mark.parametrize("output", ["base", "adapter", "base/merged", "adapter/merged", "."])
def test_output_is_an_input(output: str, tmp_path: Path, adapter: Path) -> None:
    before = snapshot(tmp_path)

    run = cli("merge", adapter, tmp_path / "in" / output, "--overwrite")

    check_refusal(run)
    assert snapshot(tmp_path) == before


def test_output_below_a_file(tmp_path: Path, adapter: Path) -> None:
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)

    run = cli("merge", adapter, tmp_path / "file" / "out")

    check_refusal(run)
    assert snapshot(tmp_path) == before


def test_disk_too_small(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft import publish

    monkeypatch.setattr(publish, "free_bytes", lambda folder: 10_000)

    reason = refused(tmp_path, adapter)

    assert "too small" in reason
    assert "10 kB are free" in reason
    assert "kB are needed" in reason or "takes" in reason


def test_memory_too_small(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft import publish

    monkeypatch.setattr(publish, "available_memory", lambda: 1_000_000)

    reason = refused(tmp_path, adapter)

    assert "1 MB are available" in reason


def test_disk_that_fills_up_while_writing(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    from ingraft.execute import block

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(block, "write_from", full)

    assert "No space left on device" in refused(tmp_path, adapter)


def test_unreadable_file_in_the_base(
    tmp_path: Path, base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is made here."""
    (base / "LICENSE").write_text("x")
    real = shutil.copyfile

    def copyfile(source: Path, target: Path, **more: Any) -> Any:
        if Path(source).name == "LICENSE":
            raise PermissionError(13, "Permission denied", str(source))
        return real(source, target, **more)

    monkeypatch.setattr(shutil, "copyfile", copyfile)

    reason = refused(tmp_path, adapter)

    assert "LICENSE" in reason
    assert "Permission denied" in reason


def test_stdout_stays_empty_for_programs(tmp_path: Path, adapter: Path) -> None:
    (adapter / CONFIG).write_text("{}")

    run = cli("merge", adapter, tmp_path / "out", "--format", "json")

    check_refusal(run)
    assert run.out == ""


@pytest.mark.parametrize("options", [["--dtype", "int8"], ["--workers", "0"], ["--format", "xml"], ["--bogus"]])
def test_unusable_command_line(options: list[str], tmp_path: Path, adapter: Path) -> None:
    before = snapshot(tmp_path)

    run = cli("merge", adapter, tmp_path / "out", *options)

    assert run.code == 2
    assert snapshot(tmp_path) == before


def test_a_method_that_needs_peft_says_so_where_it_is_missing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {f"base_model.model.{name}.hra_u": torch.ones(HIDDEN, 2) for name in attention_modules()}
    adapter = write_adapter(tmp_path / "in" / "adapter", base, tensors=tensors, peft_type="HRA", rank=2)
    monkeypatch.setitem(sys.modules, "peft", None)  # as `pip install ingraft` leaves it
    monkeypatch.setattr("ingraft.pipeline.execute", None)  # before the long work, not after it

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 2
    assert "error: Running the unmerged model needs peft.\n  Install it with: pip install 'ingraft[verify]'" in run.err
    assert not (tmp_path / "out").exists()
