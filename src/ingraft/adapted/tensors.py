"""Adapter tensors out of their file, in the dtype they have there."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ingraft.adapter import Adapter
from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.errors import UnusableInput
from ingraft.reading import read_into

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def read_tensors(adapter: Adapter, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of `keys` (name to give it → key in the file). UnusableInput for numbers that are not finite."""
    with open_files() as files:
        return {name: _checked(adapter, files, key) for name, key in keys.items()}


def _checked(adapter: Adapter, files: OpenFiles, key: str) -> Tensor:
    value = read_tensor(files, adapter.tensors[key])
    if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
        raise UnusableInput(
            f"{adapter.weights}: {key} holds NaN or infinity.", hint="The training run diverged; use an earlier save."
        )
    return value


def read_tensor(files: OpenFiles, info: TensorInfo) -> Tensor:
    """One stored tensor, in memory of its own."""
    if info.dtype not in _DTYPES:
        raise UnusableInput(f"{info.file}: {info.name} has the dtype {info.dtype}, which torch does not have.")
    raw = torch.empty(info.nbytes, dtype=torch.uint8)
    read_into(files.get(info.file), info.start, raw.numpy())
    return raw.view(_DTYPES[info.dtype]).reshape(info.shape)
