"""Tensors from files into memory that each thread reuses."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles, read_into

CHUNK_ELEMENTS = 1 << 20
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip

_kept = threading.local()


def load_part(files: OpenFiles, path: Path, start: int, count: int, *, slot: int) -> Tensor:
    """`count` bytes of a file as uint8, in this thread's buffer `slot`; valid until the slot is used again."""
    buffers: dict[int, Tensor] = _kept.__dict__.setdefault("buffers", {})
    buffer = buffers.get(slot)
    if buffer is None or buffer.numel() < count:
        buffer = buffers[slot] = torch.empty(max(count, CHUNK_ELEMENTS * 4), dtype=torch.uint8)
    part = buffer[:count]
    if count:
        read_into(files.get(path), start, part.numpy())
    return part


def load(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Tensor:
    """Elements [start, stop) of a stored tensor, flat, in this thread's buffer `slot`."""
    size = info.nbytes // max(info.elements, 1)
    part = load_part(files, info.file, info.start + start * size, (stop - start) * size, slot=slot)
    return part.view(DTYPES[info.dtype])


def load_whole(files: OpenFiles, info: TensorInfo) -> Tensor:
    """A whole stored tensor in memory of its own."""
    return load(files, info, 0, info.elements, slot=0).clone().reshape(info.shape)
