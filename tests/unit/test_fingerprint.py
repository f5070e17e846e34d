"""A fingerprint tells weights apart, whatever files they lie in; a merge looks at it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.handmade import write_adapter, write_base
from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.fingerprint import RECORD_FILE, fingerprint, recorded_fingerprint
from ingraft.plan import plan_merge


def of(folder: Path) -> str:
    return fingerprint(open_checkpoint(folder))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", sentence_transformers=True)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    """An adapter whose directory says what it was trained on."""
    folder = write_adapter(tmp_path / "adapter", base)
    (folder / RECORD_FILE).write_text(json.dumps({"base": {"name": "the-base", "fingerprint": of(base)}}))
    return folder


def test_the_same_weights_in_other_shards(tmp_path: Path, base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    names = sorted(weights)
    files = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    (tmp_path / "shards").mkdir()
    for file, inside in files.items():
        save_file({name: weights[name] for name in inside}, tmp_path / "shards" / file, metadata={"other": "words"})
    index = {"weight_map": {name: file for file, inside in files.items() for name in inside}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert of(tmp_path / "shards") == of(base)


@pytest.mark.parametrize("change", ["numbers", "dtype", "shape", "name"])
def test_other_weights(base: Path, change: str) -> None:
    before = of(base)
    weights = load_file(base / "model.safetensors")
    name = sorted(weights)[0]
    tensor = weights.pop(name)
    other = {"numbers": tensor + 1, "dtype": tensor.to(torch.bfloat16), "shape": tensor[..., None].clone()}
    weights[f"{name}2" if change == "name" else name] = other.get(change, tensor)
    save_file(weights, base / "model.safetensors")
    assert of(base) != before


def test_a_merge_refuses_other_weights_unless_told(tmp_path: Path, base: Path, adapter: Path) -> None:
    plan_merge(adapter)
    moved = base.rename(tmp_path / "moved")
    plan_merge(adapter, moved)  # the same weights, elsewhere
    weights = load_file(moved / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, moved / "model.safetensors")
    with pytest.raises(
        UnusableInput, match=r"was trained on other weights than those of .*moved: .* of the-base"
    ) as error:
        plan_merge(adapter, moved)
    assert "--other-base" in error.value.hint
    plan_merge(adapter, moved, other_base=True)


@pytest.mark.parametrize("record", [{}, {"base": None}, {"base": {"name": "x"}}, {"base": {"fingerprint": 3}}])
def test_a_record_without_a_fingerprint_says_nothing(tmp_path: Path, record: object) -> None:
    (tmp_path / RECORD_FILE).write_text(json.dumps(record))
    assert recorded_fingerprint(tmp_path) is None
