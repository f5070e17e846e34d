"""Adapter tensors and formulas: made when needed, once, and dropped when done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from helpers.handmade import attention_modules, write_adapter, write_base
from helpers.tensors import as_tensor
from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.errors import UnusableInput
from ingraft.execute import inputs
from ingraft.execute.inputs import BaseRows, FormulaCache, arithmetic, read_adapter_tensor, read_tensor
from ingraft.plan import plan_merge
from ingraft.steps import Edit, MergeStep


def info_of(folder: Path, tensor: torch.Tensor) -> TensorInfo:
    save_file({"before": torch.ones(3), "a": tensor}, folder / "x.safetensors")
    return next(info for info in read_header(folder / "x.safetensors").tensors if info.name == "a")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(3, 4), (5,), (), (0, 4), (2, 3, 2)])
def test_tensors_as_they_are(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    tensor = (torch.randn(shape) * 3).to(dtype)
    info = info_of(tmp_path, tensor)
    with open_files() as files:
        found = as_tensor(read_tensor(files, info), info.dtype)
        widened = torch.from_numpy(read_adapter_tensor(files, info))

    assert found.equal(tensor)
    assert widened.equal(tensor.float() if dtype.is_floating_point else tensor)


@pytest.mark.parametrize(
    ("stored", "formulas", "dtype"),
    [
        ("F64", ["lora:lora"], np.float64),
        ("F32", ["lora:lora", "lora:lora"], np.float64),
        ("F16", ["dora:dora", "="], np.float64),
        ("F16", ["="], np.float64),
        ("BF16", ["lora:lora"], np.float32),
        ("F32", ["oft:oft"], np.float32),
        ("F64", ["lora:lora", "loha:loha"], np.float32),
    ],
)
def test_what_a_step_is_computed_in(stored: str, formulas: list[str], dtype: type) -> None:
    """float64 where that gives the exact sum, rounded once; not where float32 is enough or a formula takes no other."""
    edits = tuple(Edit("m", "w", "weight", "linear", f, {}, {}, (1, 1), (0, 1), (0, 1)) for f in formulas)

    assert arithmetic(MergeStep("edit", "w", stored, (1,), None, edits, "")) == dtype


def test_unknown_dtype(tmp_path: Path) -> None:
    info = info_of(tmp_path, torch.ones(3).to(torch.float8_e4m3fn))
    with open_files() as files, pytest.raises(UnusableInput, match="F8_E4M3, which cannot be merged"):
        read_adapter_tensor(files, info)


def test_file_that_shrank_after_it_was_looked_at(tmp_path: Path) -> None:
    info = info_of(tmp_path, torch.ones(1000))
    info.file.write_bytes(info.file.read_bytes()[:-100])
    with open_files() as files, pytest.raises(EOFError):
        read_tensor(files, info)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_the_base(
    transposed: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks and in order, [out, in] whatever way it is stored, and again at every call."""
    monkeypatch.setattr(inputs, "BLOCK_ELEMENTS", 20)
    matrix = torch.randn(11, 6).to(dtype)
    stored = torch.cat([torch.zeros(12, dtype=dtype), (matrix.T if transposed else matrix).flatten()])
    info = info_of(tmp_path, stored)
    edit = Edit("m", "m.weight", "weight", "linear", "x:y", {}, {}, (11, 6), (12, 78), (0, 11), transposed)
    with open_files() as files:
        rows = BaseRows(files, info, edit)
        assert rows.shape == (11, 6)
        for _ in range(2):
            found = torch.zeros(11, 6)
            at = 0
            for place, part in rows.blocks():
                assert place.start == at
                assert part.dtype == np.float32
                found[place] = torch.from_numpy(part)
                at = place.stop
            assert at == 11
            assert found.equal(matrix.float())


def test_formulas_are_built_once_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_merge(write_adapter(tmp_path / "adapter", write_base(tmp_path / "base")))
    step = next(step for step in plan.steps() if step.tensor == f"{attention_modules()[0]}.weight")
    built = []
    real = inputs.build

    def build(*arguments: Any) -> Any:
        built.append(arguments[2].target)
        return real(*arguments)

    monkeypatch.setattr(inputs, "build", build)
    with open_files() as files:
        cache = FormulaCache(files, step, 3, {})
        first = cache.get(0)
        for _ in range(3):
            assert cache.get(0) is first
            cache.done()
        assert built == [attention_modules()[0]]
        cache.get(0)
        assert len(built) == 2


def test_base_that_lies_in_several_parts(tmp_path: Path) -> None:
    """A formula that needs all of the weight is not given a part of it."""
    step = next(iter(plan_merge(write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"))).edits()))
    info = info_of(tmp_path, torch.randn(step.shape[0] - 1, step.shape[1]))
    part = replace(step, elements=(0, info.elements))

    with open_files() as files, pytest.raises(UnusableInput, match="lies in several parts"):
        next(BaseRows(files, info, part).blocks())
