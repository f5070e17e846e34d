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


def _buffer(name: str, nbytes: int) -> Tensor:
    """`nbytes` of memory of this thread: pages that were touched once stay mapped."""
    buffers: dict[str, Tensor] = _kept.__dict__.setdefault("buffers", {})
    buffer = buffers.get(name)
    if buffer is None or buffer.numel() < nbytes:
        buffer = buffers[name] = torch.empty(max(nbytes, CHUNK_ELEMENTS * 4), dtype=torch.uint8)
    return buffer[:nbytes]


def load_part(files: OpenFiles, path: Path, start: int, count: int, *, slot: int) -> Tensor:
    """`count` bytes of a file as uint8, in this thread's buffer `slot`; valid until the slot is used again."""
    part = _buffer(f"stored {slot}", count)
    if count:
        read_into(files.get(path), start, part.numpy())
    return part


def load(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Tensor:
    """Elements [start, stop) of a stored tensor, flat, in this thread's buffer `slot`."""
    size = info.nbytes // max(info.elements, 1)
    part = load_part(files, info.file, info.start + start * size, (stop - start) * size, slot=slot)
    return part.view(DTYPES[info.dtype])


def load_float(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Tensor:
    """Elements [start, stop) of a stored tensor in float32, in this thread's buffer `slot`; free to be changed."""
    stored = load(files, info, start, stop, slot=slot)
    if stored.dtype == torch.float32:
        return stored
    return _buffer(f"float32 {slot}", stored.numel() * 4).view(torch.float32).copy_(stored)


def load_whole(files: OpenFiles, info: TensorInfo) -> Tensor:
    """A whole stored tensor in memory of its own."""
    buffer = bytearray(info.nbytes)
    read_into(files.get(info.file), info.start, buffer)
    if not buffer:
        return torch.empty(info.shape, dtype=DTYPES[info.dtype])
    return torch.frombuffer(buffer, dtype=DTYPES[info.dtype]).reshape(info.shape)
