"""Original or dequantised weights: the choice on hand-made files, the arithmetic by hand and against bitsandbytes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.files import snapshot, stored_tensors, write_json
from helpers.handmade import QUERY, change_tensors, write_adapter, write_base
from ingraft.adapter import open_adapter
from ingraft.base_model import open_base
from ingraft.base_precision import ChosenBase, at_precision, dequantised_weights
from ingraft.base_precision.arithmetic import as_seen, quiet_bitsandbytes, unpacked
from ingraft.base_precision.layers import QuantisedLayer, dtype_of, wider
from ingraft.base_precision.settings import trained_over
from ingraft.errors import UnusableInput
from ingraft.naming import Region
from ingraft.pipeline import merge
from ingraft.plan import plan_merge

FOUR_BIT = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
FILE = "model.safetensors"
EIGHT_BIT = {"quant_method": "bitsandbytes", "load_in_8bit": True}
CARD = """---
library_name: peft
---
## Training procedure

The following `bitsandbytes` quantization config was used during training:
- quant_method: bitsandbytes
- load_in_8bit: False
- load_in_4bit: True
- llm_int8_threshold: 6.0
- llm_int8_skip_modules: None
- bnb_4bit_quant_type: nf4
- bnb_4bit_use_double_quant: True
- bnb_4bit_compute_dtype: bfloat16

### Framework versions
- PEFT 0.6.0
"""


def layer(kind: str, shape: tuple[int, int], *, dtype: str = "F32", double: bool = False) -> QuantisedLayer:
    return QuantisedLayer(
        parameter="w",
        kind=kind,  # type: ignore[arg-type]
        shape=shape,
        transposed=False,
        regions=(),
        loaded=dtype,
        compute=dtype,
        nested_blocksize=256 if double else 0,
    )


def random_weight(shape: tuple[int, int], seed: int = 0) -> Tensor:
    """Rows of different size, so that no two blocks have the same scale."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (0.1 + torch.rand(shape[0], 1, generator=generator))


def packed(name: str, weight: Tensor, kind: str, *, double: bool = False) -> dict[str, Tensor]:
    """`weight` and its companions as bitsandbytes saves them."""
    functional = quiet_bitsandbytes()
    if kind == "int8":
        codes, scale, _ = functional.int8_vectorwise_quant(weight.half())
        format_byte = torch.tensor(0, dtype=torch.uint8)
        return {name: codes, name.replace("weight", "SCB"): scale, name.replace("weight", "weight_format"): format_byte}
    codes, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    return {name: codes, **{f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}}


def packed_base(folder: Path, kind: str = "nf4", **config: Any) -> Path:
    """The hand-made BERT with one packed layer."""
    settings = EIGHT_BIT if kind == "int8" else {**FOUR_BIT, "bnb_4bit_quant_type": kind}
    write_base(folder, config={"quantization_config": settings, **config})
    weight = load_file(folder / "model.safetensors")[f"{QUERY}.weight"]
    change_tensors(folder / "model.safetensors", packed(f"{QUERY}.weight", weight, kind))
    return folder


def choose(base: Path, adapter: Path, choice: Any = None) -> ChosenBase:
    opened = open_adapter(adapter)
    return at_precision(open_base(opened, base), opened, choice, weights=[f"{QUERY}.weight"])


# Arithmetic


def test_nf4_by_hand() -> None:
    """Each number becomes the nearest entry of the table times the largest magnitude among its 64."""
    table = torch.tensor(
        [
            *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
            *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
        ]
    )
    weight = random_weight((4, 64))
    largest = weight.abs().amax(1, keepdim=True)
    nearest = ((weight / largest).unsqueeze(-1) - table).abs().argmin(-1)
    found = as_seen(weight, layer("nf4", (4, 64)))
    torch.testing.assert_close(found, table[nearest] * largest)
    assert (found - weight).abs().max() > 0.01


def test_int8_by_hand() -> None:
    """Each row in 127ths of its largest magnitude, from float16."""
    weight = random_weight((4, 32))
    half = weight.half().float()
    largest = half.abs().amax(1, keepdim=True)
    torch.testing.assert_close(as_seen(weight, layer("int8", (4, 32))), (half / largest * 127).round() * largest / 127)


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
def test_pieces_give_what_bitsandbytes_gives_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, double: bool
) -> None:
    monkeypatch.setattr("ingraft.base_precision.arithmetic.PIECE", 4096)
    functional = quiet_bitsandbytes()
    names = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    weight = random_weight((200, 128)).to(names[dtype])
    codes, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double)
    expected = functional.dequantize_4bit(codes, state)
    found = as_seen(weight, layer(kind, (200, 128), dtype=dtype, double=double))
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_int8_in_pieces_is_what_bitsandbytes_gives_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingraft.base_precision.arithmetic.PIECE", 1000)
    functional = quiet_bitsandbytes()
    weight = random_weight((30, 128)).bfloat16()
    codes, scale, _ = functional.int8_vectorwise_quant(weight.half())
    assert torch.equal(
        as_seen(weight, layer("int8", (30, 128), dtype="BF16")), functional.int8_vectorwise_dequant(codes, scale)
    )


@pytest.mark.parametrize("shape", [(8, 96), (5, 33), (3, 7)], ids=str)
def test_blocks_go_on_over_the_ends_of_rows(shape: tuple[int, int]) -> None:
    """Also where a row is no whole number of blocks, and where the number of elements is odd."""
    weight = random_weight(shape)
    blocks = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True)
    found = torch.nn.functional.pad(as_seen(weight, layer("nf4", shape)).flatten(), (0, -weight.numel() % 64))
    # half of the widest gap in the table, from −1 to −0.696
    assert ((found.reshape(-1, 64) - blocks).abs() <= 0.1521 * scale).all()


@pytest.mark.parametrize(
    ("kind", "double"), [("nf4", False), ("nf4", True), ("fp4", False), ("fp4", True), ("int8", False)]
)
def test_packed_weights_unpack_to_what_quantising_gives(kind: str, double: bool) -> None:
    """What was packed in a file, and what is quantised here, are the same numbers."""
    weight = random_weight((32, 128))
    tensors = packed("a.weight", weight, kind, double=double)
    parts = {name.removeprefix("a.").removeprefix("weight."): name for name in tensors}

    def read(info: Any) -> Tensor:
        value = tensors[info]
        return value if value.dtype == torch.float32 else value.contiguous().view(torch.uint8).flatten()

    nested = {"nested_blocksize": 256, "nested_offset": _state(tensors)["nested_offset"]} if double else {}
    wanted = layer(kind, (32, 128), double=double)
    found = unpacked(
        QuantisedLayer(**{**vars(wanted), "packed": parts, **nested}),  # type: ignore[arg-type]
        read,
    )
    assert torch.equal(found, as_seen(weight, wanted))


def _state(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    name = next(name for name in tensors if "quant_state" in name)
    found: dict[str, Any] = json.loads(bytes(tensors[name].tolist()))
    return found


def test_a_weight_too_large_for_float16_is_refused() -> None:
    with pytest.raises(UnusableInput, match="does not fit into float16"):
        as_seen(torch.full((2, 4), 1e6), layer("int8", (2, 4)))


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [("BF16", "BF16", "BF16"), ("BF16", "F16", "F32"), ("F32", "F16", "F32"), ("F64", "BF16", "F64")],
)
def test_a_wider_dtype_holds_both(first: str, second: str, both: str) -> None:
    assert wider(first, second) == wider(second, first) == both


def test_dtypes_by_the_names_that_configs_give_them() -> None:
    assert [dtype_of(name) for name in ("float32", "torch.bfloat16", "float64", None)] == ["F32", "BF16", None, None]


# What an adapter says


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"quantization_config": None}, None),
        ({"quantization_config": {"load_in_4bit": True}}, {"load_in_4bit": True}),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {"quant_method": "gptq", "bits": 4}),
        ({"quantization_config": {**FOUR_BIT, "load_in_4bit": False}}, None),
        ({"load_in_8bit": True}, {"load_in_8bit": True}),
        ({"loftq_config": {}}, None),
    ],
)
def test_what_an_adapter_says_about_its_base(tmp_path: Path, config: dict[str, Any], expected: Any) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "base", **config)
    assert trained_over(open_adapter(adapter)) == expected


def test_the_model_card_of_an_older_peft_says_it_too(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "base")
    (adapter / "README.md").write_text(CARD)
    said = trained_over(open_adapter(adapter))
    assert said is not None
    assert (said["load_in_4bit"], said["bnb_4bit_quant_type"], said["bnb_4bit_use_double_quant"]) == (True, "nf4", True)
    assert (said["bnb_4bit_compute_dtype"], said["llm_int8_skip_modules"]) == ("bfloat16", None)
    assert "PEFT 0.6.0" not in str(said)


@pytest.mark.parametrize("value", ["{[]: 1}", "-" * 5000 + "1", "(" * 300, "a b", "0x", "open('x')"])
def test_what_a_card_writes_in_place_of_a_value_is_text(value: str, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "base")
    (adapter / "README.md").write_text(CARD.replace("bfloat16", value))
    said = trained_over(open_adapter(adapter))
    assert said is not None
    assert said["bnb_4bit_compute_dtype"] == value


# The choice


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_packed_base_needs_the_choice(tmp_path: Path, kind: str) -> None:
    base = packed_base(tmp_path / "base", kind)
    adapter = write_adapter(tmp_path / "adapter", base)
    before = snapshot(tmp_path)
    with pytest.raises(UnusableInput, match="is stored packed, quantised with bitsandbytes") as caught:
        merge(adapter, tmp_path / "merged")
    assert "--base-precision dequantized" in caught.value.hint
    assert "--base-precision original --base ORIGINAL" in caught.value.hint
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("config", "named", "hint"),
    [
        ({"_name_or_path": "someone/model"}, "", "--base someone/model"),
        ({}, "someone/other", "--base someone/other"),
        ({}, "someone/other-bnb-4bit", "--base ORIGINAL"),
    ],
    ids=["config", "adapter", "only a packed one"],
)
def test_a_packed_base_cannot_give_the_original(tmp_path: Path, config: Any, named: str, hint: str) -> None:
    base = packed_base(tmp_path / "base", **config)
    adapter = write_adapter(tmp_path / "adapter", named or base)
    with pytest.raises(UnusableInput, match="its original weights are not in it") as caught:
        plan_merge(adapter, base, base_precision="original")
    assert hint in caught.value.hint


def test_a_config_that_claims_a_quantisation_which_the_weights_lack(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={"quantization_config": FOUR_BIT})
    with pytest.raises(UnusableInput, match="none of its weights is packed"):
        plan_merge(write_adapter(tmp_path / "adapter", base), base_precision="dequantized")


def test_only_bitsandbytes_can_be_undone(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={"quantization_config": {"quant_method": "fp8"}})
    with pytest.raises(UnusableInput, match="quantised with fp8; only what bitsandbytes"):
        plan_merge(write_adapter(tmp_path / "adapter", base), base_precision="dequantized")


@pytest.mark.parametrize("choice", [None, "original", "dequantized"])
def test_a_base_that_another_method_has_packed(tmp_path: Path, choice: Any) -> None:
    """Its weights have other names, so that the adapter would seem to fit nothing."""
    base = write_base(tmp_path / "base", config={"quantization_config": {"quant_method": "gptq", "bits": 4}})
    codes = torch.zeros(2, 16, dtype=torch.int32)
    change_tensors(base / "model.safetensors", {f"{QUERY}.weight": None, f"{QUERY}.qweight": codes})
    with pytest.raises(UnusableInput, match="quantised with gptq; only what bitsandbytes"):
        plan_merge(write_adapter(tmp_path / "adapter", base), base_precision=choice)


def test_only_bitsandbytes_can_be_done_again(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnusableInput, match="trained over a base quantised with gptq"):
        plan_merge(adapter, base_precision="dequantized")
    assert plan_merge(adapter).notes == ("trained over a base quantised with gptq, merged into the original weights",)


def test_the_original_weights_are_the_default_where_they_are_there(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    plain, said = write_adapter(tmp_path / "a", base), write_adapter(tmp_path / "b", base, load_in_4bit=True)
    assert not plan_merge(plain).notes
    (note,) = plan_merge(said).notes
    assert "merged into the original weights" in note
    assert "--base-precision dequantized" in note
    assert not plan_merge(said, base_precision="original").notes
    results = [merge(said, tmp_path / name, base_precision=choice) for name, choice in (("c", None), ("d", "original"))]  # type: ignore[arg-type]
    assert stored_tensors(results[0].output) == stored_tensors(results[1].output)
    assert stored_tensors(results[0].output) == stored_tensors(merge(plain, tmp_path / "e").output)


def test_without_bitsandbytes_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    base = packed_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    with pytest.raises(UnusableInput, match="bitsandbytes, which is not installed") as caught:
        plan_merge(adapter, base_precision="dequantized")
    assert "ingraft[quantized]" in caught.value.hint


def test_layers_that_are_parts_of_tensors_or_several_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a running model splits or joins is quantised as the running model has it; the rest of a tensor stays."""
    base = write_base(tmp_path / "base")
    joined = ("encoder.layer.0.attention.self.key.weight", "encoder.layer.0.attention.self.value.weight")
    inner = "encoder.layer.0.intermediate.dense.weight"
    layers = (
        replace(layer("nf4", (8, 16)), regions=(Region(inner, (64, 192), (0, 8)),)),
        replace(
            layer("nf4", (32, 16), double=True),
            regions=(Region(joined[0], (0, 256), (0, 16)), Region(joined[1], (0, 256), (16, 32))),
        ),
    )
    monkeypatch.setattr("ingraft.base_precision.choice.converted_layers", lambda *_, **__: layers)
    chosen = choose(base, write_adapter(tmp_path / "adapter", base), "dequantized")
    assert chosen.dequantised is not None
    stored = load_file(base / FILE)
    with dequantised_weights(chosen.dequantised):
        found = load_file(chosen.dequantised.folder / FILE)
    both = as_seen(torch.cat([stored[name] for name in joined]), layers[1])
    assert torch.equal(torch.cat([found[name] for name in joined]), both)
    assert torch.equal(found[inner][4:12], as_seen(stored[inner][4:12], layers[0]))
    untouched = {name for name in stored if name not in (*joined, inner)}
    assert all(torch.equal(found[name], stored[name]) for name in untouched)
    assert torch.equal(found[inner][:4], stored[inner][:4])
    assert torch.equal(found[inner][12:], stored[inner][12:])
    assert not torch.equal(found[inner][4:12], stored[inner][4:12])


# Packed files that are not whole


def _without(part: str) -> Callable[[dict[str, Tensor]], None]:
    def spoil(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{QUERY}.{part}"]

    return spoil


def _with(part: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[f"{QUERY}.{part}"] = value

    return spoil


def _state_with(**changes: Any) -> Callable[[dict[str, Tensor]], None]:
    def spoil(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in tensors if "quant_state" in name)
        text = json.dumps({**json.loads(bytes(tensors[name].tolist())), **changes}).encode()
        tensors[name] = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    return spoil


STATE = "weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("nf4", _without(STATE), "its quant_state is not in the checkpoint"),
        ("nf4", _without("weight.absmax"), "its absmax is not in the checkpoint"),
        ("nf4", _with("weight.absmax", torch.ones(3)), r"expected 4 elements of F32"),
        ("nf4", _with("weight.absmax", torch.ones(4, dtype=torch.uint8)), r"expected 4 elements of F32"),
        ("nf4", _with("weight.nested_absmax", torch.ones(1)), "does not describe its double quantisation"),
        ("nf4", _with("weight", torch.zeros(100, 1, dtype=torch.uint8)), "has 100 bytes, expected 128"),
        ("nf4", _with(STATE, torch.zeros(4, dtype=torch.uint8)), "is not the JSON that bitsandbytes writes"),
        ("nf4", _with(STATE, torch.zeros(70_000, dtype=torch.uint8)), "too many for what it should say"),
        ("nf4", _state_with(shape=[16, 1 << 40]), r"has 128 bytes, expected"),
        ("nf4", _state_with(shape=[16]), "does not describe a packed linear layer"),
        ("nf4", _state_with(shape=[16, True]), "does not describe a packed linear layer"),
        ("nf4", _state_with(blocksize=63), "does not describe a packed linear layer"),
        ("nf4", _state_with(blocksize=64.0), "does not describe a packed linear layer"),
        ("nf4", _state_with(quant_type="fp4"), "does not describe a packed linear layer"),
        ("int8", _without("SCB"), "nothing in the checkpoint says how to unpack it|its SCB is not in the checkpoint"),
        ("int8", _with("SCB", torch.ones(5)), "expected 16 elements of F32"),
        ("int8", _with("weight_format", torch.tensor(2, dtype=torch.uint8)), "not stored by rows"),
        ("int8", _with("weight", torch.ones(16, 16)), "expected an int8 matrix"),
    ],
)
def test_a_packed_weight_that_is_not_whole_is_refused(
    tmp_path: Path, kind: str, spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    base = packed_base(tmp_path / "base", kind)
    tensors = load_file(base / "model.safetensors")
    spoil(tensors)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(UnusableInput, match=message):
        plan_merge(write_adapter(tmp_path / "adapter", base), base_precision="dequantized")


def test_another_table_than_bitsandbytes_own_is_refused(tmp_path: Path) -> None:
    base = packed_base(tmp_path / "base")
    change_tensors(base / "model.safetensors", {f"{QUERY}.weight.quant_map": torch.linspace(-1, 1, 16)})
    with pytest.raises(UnusableInput, match="quant_map is not the table of nf4"):
        merge(write_adapter(tmp_path / "adapter", base), tmp_path / "merged", base_precision="dequantized")
    assert not (tmp_path / "merged").exists()


# The temporary copy


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_planning_writes_no_weights_and_running_leaves_none(tmp_path: Path, temporary: Path) -> None:
    base = packed_base(tmp_path / "base")
    (base / "vocab.txt").write_text("a\nb\n")
    before = snapshot(base)
    chosen = choose(base, write_adapter(tmp_path / "adapter", base), "dequantized")
    assert chosen.dequantised is not None
    folder = chosen.dequantised.folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "vocab.txt"]
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert not (folder / "config.json").is_symlink()
    with dequantised_weights(chosen.dequantised):
        found = load_file(folder / "model.safetensors")
        assert chosen.dequantised.nbytes == (folder / "model.safetensors").stat().st_size
    assert not (folder / "model.safetensors").exists()
    stored = load_file(base / "model.safetensors")
    companions = {name for name in stored if name.startswith(f"{QUERY}.weight.")}
    assert len(companions) == 3
    assert set(found) == set(stored) - companions
    assert all(torch.equal(found[name], stored[name]) for name in found if name != f"{QUERY}.weight")
    assert found[f"{QUERY}.weight"].shape == (16, 16)
    assert snapshot(base) == before


def test_the_weights_are_removed_after_an_error(tmp_path: Path, temporary: Path) -> None:
    base = packed_base(tmp_path / "base")
    chosen = choose(base, write_adapter(tmp_path / "adapter", base), "dequantized")
    assert chosen.dequantised is not None
    with pytest.raises(RuntimeError, match="in between"), dequantised_weights(chosen.dequantised):
        raise RuntimeError("in between")
    assert not list(temporary.rglob("*.safetensors"))


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, temporary: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left, alive = temporary / f"ingraft-base-{gone.pid}-abc", temporary / "ingraft-base-1-abc"
    for folder in (left, alive):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"x")
    base = packed_base(tmp_path / "base")
    choose(base, write_adapter(tmp_path / "adapter", base), "dequantized")
    assert not left.exists()
    assert alive.exists()


def test_too_small_a_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = packed_base(tmp_path / "base")
    chosen = choose(base, write_adapter(tmp_path / "adapter", base), "dequantized")
    monkeypatch.setattr("ingraft.base_precision.dequantised.free_bytes", lambda folder: 10)
    with (
        pytest.raises(UnusableInput, match="too small for the dequantised base") as caught,
        dequantised_weights(chosen.dequantised),
    ):
        pass
    assert "TMPDIR" in caught.value.hint


@pytest.mark.parametrize(
    ("loaded", "compute", "dtype", "stored", "config_dtype"),
    [
        ("bfloat16", "bfloat16", "auto", "BF16", "bfloat16"),
        ("bfloat16", "float32", "auto", "F32", "float32"),
        ("float16", "bfloat16", "auto", "F32", "float32"),
        ("bfloat16", "float32", "bfloat16", "BF16", "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "F32", "float32"),
    ],
)
def test_the_result_holds_what_the_layers_compute_with(
    tmp_path: Path, loaded: str, compute: str, dtype: Any, stored: str, config_dtype: str
) -> None:
    settings = {**FOUR_BIT, "bnb_4bit_compute_dtype": compute}
    base = packed_base(tmp_path / "base", dtype=loaded, quantization_config=settings)
    adapter = write_adapter(tmp_path / "adapter", base)
    result = merge(adapter, tmp_path / "merged", base_precision="dequantized", dtype=dtype)
    assert stored_tensors(result.output)[f"{QUERY}.weight"][0] == stored
    assert json.loads((result.output / "config.json").read_text())["dtype"] == config_dtype


def test_eight_bits_are_rounded_once(tmp_path: Path) -> None:
    """From the exact product of code and scale, not from one that was rounded to the model's dtype before."""
    base = packed_base(tmp_path / "base", "int8", dtype="float16")
    adapter = write_adapter(tmp_path / "adapter", base)
    whole = load_file(merge(adapter, tmp_path / "whole", base_precision="dequantized", dtype="float32").output / FILE)
    result = merge(adapter, tmp_path / "half", base_precision="dequantized")
    half = load_file(result.output / FILE)
    stored, change = load_file(base / FILE), load_file(adapter / "adapter_model.safetensors")
    lora_a, lora_b = (change[f"base_model.model.{QUERY}.lora_{name}.weight"].double() for name in "AB")
    scale = stored[f"{QUERY}.SCB"].double()[:, None] / 127
    exact = stored[f"{QUERY}.weight"].double() * scale + 2 * lora_b @ lora_a
    torch.testing.assert_close(whole[f"{QUERY}.weight"].double(), exact, atol=1e-6, rtol=1e-6)
    assert half[f"{QUERY}.weight"].dtype == torch.float16
    assert half["pooler.dense.weight"].dtype == torch.float32  # stored so, and not touched
    assert torch.equal(half[f"{QUERY}.weight"], whole[f"{QUERY}.weight"].half())


def test_the_manifest_names_the_base_that_was_packed(tmp_path: Path) -> None:
    base = packed_base(tmp_path / "base")
    result = merge(write_adapter(tmp_path / "adapter", base), tmp_path / "merged", base_precision="dequantized")
    manifest = json.loads((result.output / "ingraft.json").read_text())
    assert manifest["base"]["files"] == {FILE: snapshot(base)[FILE]}
    assert "4-bit nf4" in manifest["base"]["precision"]


def test_the_packed_base_is_never_overwritten(tmp_path: Path) -> None:
    base = packed_base(tmp_path / "base")
    before = snapshot(base)
    with pytest.raises(UnusableInput, match="which is read"):
        merge(write_adapter(tmp_path / "adapter", base), base, base_precision="dequantized", overwrite=True)
    assert snapshot(base) == before


def test_a_plan_with_a_dequantised_base_is_json(tmp_path: Path) -> None:
    base = packed_base(tmp_path / "base")
    plan = plan_merge(write_adapter(tmp_path / "adapter", base), base_precision="dequantized")
    write_json(tmp_path / "plan.json", plan.to_dict())
    assert json.loads((tmp_path / "plan.json").read_text())["dequantised"]["layers"][0]["kind"] == "nf4"
