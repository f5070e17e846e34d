"""Stored tensors to be looked at: mapped where the system maps files, else read into memory that is used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ingraft import reading
from ingraft.checkpoint.header import TensorInfo
from ingraft.checkpoint.numbers import STORED
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.kernels.buffers import Array, Buffers


def stored_bytes(files: OpenFiles, path: Path, start: int, count: int, buffers: Buffers, name: str) -> Array:
    """`count` bytes of a file as uint8, read-only; valid until the thread asks for the buffer `name` again."""
    if reading.MAPPED:
        return np.frombuffer(reading.look_at(files.get(path), start, count), np.uint8)
    part = buffers.get(name, count, np.uint8)
    reading.read_into(files.get(path), start, part)
    return part


def stored_elements(files: OpenFiles, info: TensorInfo, start: int, stop: int, buffers: Buffers, name: str) -> Array:
    """Elements [start, stop) of a tensor as they are stored, flat; otherwise as `stored_bytes`."""
    stored = STORED[info.dtype]
    begin, end = (info.start + at * stored.itemsize for at in (start, stop))
    part = stored_bytes(files, info.file, begin, end - begin, buffers, name)
    return np.require(part.view(stored), requirements="A")  # a header may have any length
