"""Tensors from files into memory that each thread reuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.numbers import STORED, Array, Buffers, widen
from ingraft.checkpoint.transfer import OpenFiles, read_into

CHUNK_ELEMENTS = 1 << 19

_buffers = Buffers()


def load_part(files: OpenFiles, path: Path, start: int, count: int, *, slot: int) -> Array:
    """`count` bytes of a file as uint8, in this thread's buffer `slot`; valid until the slot is used again."""
    part = _buffers.get(f"stored {slot}", count, np.uint8)
    if count:
        read_into(files.get(path), start, part)
    return part


def load(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Array:
    """Elements [start, stop) of a stored tensor as they are stored, flat, in this thread's buffer `slot`."""
    size = STORED[info.dtype].itemsize
    part = load_part(files, info.file, info.start + start * size, (stop - start) * size, slot=slot)
    return part.view(STORED[info.dtype])


def load_float(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Array:
    """Elements [start, stop) of a stored tensor in float32, in this thread's buffer `slot`; free to be changed."""
    stored = load(files, info, start, stop, slot=slot)
    if info.dtype == "F32":
        return stored
    return widen(stored, info.dtype, _buffers.get(f"float32 {slot}", stored.size, np.float32))


def load_whole(files: OpenFiles, info: TensorInfo) -> Array:
    """A whole stored tensor in float32, in memory of its own."""
    stored = np.empty(info.elements, STORED[info.dtype])
    if stored.size:
        read_into(files.get(info.file), info.start, stored)
    whole = stored if info.dtype == "F32" else widen(stored, info.dtype, np.empty(stored.size, np.float32))
    return whole.reshape(info.shape)
