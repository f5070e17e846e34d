"""Tensors from files into memory that each thread reuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.numbers import STORED, widen
from ingraft.checkpoint.stored import stored_bytes, stored_elements
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.kernels.buffers import Array, Buffers
from ingraft.reading import read_into

CHUNK_ELEMENTS = 1 << 21  # to map, and to let go, costs by the piece

_buffers = Buffers()


def load_part(files: OpenFiles, path: Path, start: int, count: int, *, slot: int) -> Array:
    """`count` bytes of a file as uint8, to be read only; valid until this thread uses `slot` again."""
    return stored_bytes(files, path, start, count, _buffers, f"stored {slot}")


def load(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Array:
    """Elements [start, stop) of a stored tensor as they are stored, flat; otherwise as `load_part`."""
    return stored_elements(files, info, start, stop, _buffers, f"stored {slot}")


def load_float(files: OpenFiles, info: TensorInfo, start: int, stop: int, *, slot: int) -> Array:
    """Elements [start, stop) of a stored tensor in float32, in this thread's buffer `slot`; free to be changed."""
    stored = load(files, info, start, stop, slot=slot)
    return widen(stored, info.dtype, _buffers.get(f"float32 {slot}", stored.size, np.float32))


def load_whole(files: OpenFiles, info: TensorInfo) -> Array:
    """A whole stored tensor in float32, in memory of its own."""
    stored = np.empty(info.elements, STORED[info.dtype])
    read_into(files.get(info.file), info.start, stored)
    whole = stored if info.dtype == "F32" else widen(stored, info.dtype, np.empty(stored.size, np.float32))
    return whole.reshape(info.shape)
