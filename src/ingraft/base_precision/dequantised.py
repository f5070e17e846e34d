"""A plain copy of a base with the weights that quantised training saw: planned from headers, written when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingraft.base_precision.layers import QuantisedLayer
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.files import human_bytes
from ingraft.machine import available_memory, free_bytes

# Measured: an interpreter with torch and bitsandbytes, and the pieces that are worked on.
_RUNTIME_MEMORY = 600_000_000
_BYTES_PER_ELEMENT = 9  # of the largest layer: stored, as loaded, in 4 bits and dequantised, never all at once


@dataclass(frozen=True)
class CopiedTensor:
    """A tensor of the plain copy and the base's tensor that it comes from; `computed` where layers write all of it."""

    target: TensorInfo
    source: TensorInfo
    computed: bool


@dataclass(frozen=True)
class ScratchShard:
    path: Path
    metadata: Mapping[str, str]
    tensors: tuple[CopiedTensor, ...]

    @property
    def nbytes(self) -> int:
        return max((tensor.target.stop for tensor in self.tensors), default=0)


@dataclass(frozen=True)
class Dequantised:
    """The plain copy of a base.

    source  the base as it was given; `folder` is the copy, a temporary directory that lacks its weights until they
            are written
    layers  what is quantised and dequantised, or unpacked
    dtypes  the dtype that each dequantised tensor has in the merged model; `dtype` is that of the model
    how     one line for the plan
    """

    source: Path
    folder: Path
    shards: tuple[ScratchShard, ...]
    layers: tuple[QuantisedLayer, ...]
    dtypes: Mapping[str, str]
    dtype: str
    how: str

    @property
    def nbytes(self) -> int:
        return sum(shard.nbytes for shard in self.shards)

    def needed_memory(self, workers: int) -> int:
        """Bytes that writing the weights takes, estimated: each thread has one layer at a time."""
        largest = sorted((layer.elements for layer in self.layers), reverse=True)[:workers]
        return _RUNTIME_MEMORY + _BYTES_PER_ELEMENT * sum(largest)


@contextmanager
def dequantised_weights(
    base: Dequantised | None, *, workers: int = 2, progress: Callable[[int], None] | None = None
) -> Iterator[None]:
    """The weights of the plain copy are on disk within the block, and gone after it. Does nothing for None."""
    if base is None:
        yield
        return
    from ingraft.base_precision.write import write_weights

    _check_room(base, workers)
    try:
        write_weights(base, workers=workers, progress=progress or (lambda count: None))
        yield
    finally:
        for shard in base.shards:
            shard.path.unlink(missing_ok=True)


def _check_room(base: Dequantised, workers: int) -> None:
    free = free_bytes(base.folder)
    if base.nbytes > free:
        raise UnusableInput(
            f"The disk of {base.folder.parent} is too small for the dequantised base: {human_bytes(base.nbytes)} are "
            f"needed, {human_bytes(free)} are free.",
            hint="Name a directory on another disk in the environment variable TMPDIR.",
        )
    available = available_memory()
    needed = base.needed_memory(workers)
    if available is not None and needed > available:
        raise UnusableInput(
            f"Not enough memory: dequantising the base takes about {human_bytes(needed)}, {human_bytes(available)} are "
            "available.",
            hint="Use fewer threads with --workers." if workers > 1 else "",
        )
