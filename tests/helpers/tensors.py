"""Stored tensors as torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.execute import inputs
from ingraft.kernels.buffers import Array

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def as_tensor(stored: Array, dtype: str) -> Tensor:
    """Stored numbers, of which numpy knows the bits, in the dtype that `dtype` names."""
    return torch.from_numpy(stored).view(DTYPES[dtype])


def read_tensor(files: OpenFiles, info: TensorInfo) -> Tensor:
    return as_tensor(inputs.read_tensor(files, info), info.dtype)
