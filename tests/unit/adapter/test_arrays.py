"""Adapter tensors without torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ingraft.adapter.arrays import read_array
from ingraft.checkpoint import read_header


@pytest.mark.parametrize("rows", [3, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_numbers_are_torchs(dtype: torch.dtype, rows: int, tmp_path: Path) -> None:
    tensor = (torch.randn(rows, 4) * 1000).to(dtype)
    save_file({"before": torch.ones(5, dtype=torch.float64), "a": tensor}, tmp_path / "x.safetensors")
    info = next(info for info in read_header(tmp_path / "x.safetensors").tensors if info.name == "a")

    found = read_array(info)

    assert found is not None
    assert found.dtype == "float32"
    assert torch.equal(torch.from_numpy(found), tensor.float())


def test_other_dtypes_are_none(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3, dtype=torch.int8)}, tmp_path / "x.safetensors")

    assert read_array(read_header(tmp_path / "x.safetensors").tensors[0]) is None
