"""How two stored tensors of one shape differ, in float64, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.verification.read import load_part

CHUNK_ELEMENTS = 1 << 19  # some of them are in memory in float64

# What is packed below a byte, or complex, is compared as bytes.
NUMBERS: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Change:
    """The difference B − A of two tensors.

    changed     elements whose bits differ (whose numbers differ, where the dtypes do), of `elements`
    norm        ‖B − A‖, Frobenius, over the elements where it is finite; `base_norm` is ‖A‖ there
    largest     the largest |b − a|
    not_finite  elements that are NaN or infinite on one side at least and differ
    """

    elements: int
    changed: int
    norm: float
    base_norm: float
    largest: float
    not_finite: int

    @property
    def relative(self) -> float | None:
        """‖B − A‖ / ‖A‖, or None where A is zero."""
        return self.norm / self.base_norm if self.base_norm else None


def same_bytes(files: OpenFiles, a: TensorInfo, b: TensorInfo) -> bool:
    """Are two tensors of one dtype and shape the same, bit for bit?"""
    size = CHUNK_ELEMENTS * 4
    for offset in range(0, a.nbytes, size):
        count = min(size, a.nbytes - offset)
        left = load_part(files, a.file, a.start + offset, count, slot=0)
        if not np.array_equal(left, load_part(files, b.file, b.start + offset, count, slot=1)):
            return False
    return True


def numbers(files: OpenFiles, info: TensorInfo, start: int, stop: int) -> Tensor:
    """Elements [start, stop) as they are stored, flat; the dtype is in NUMBERS."""
    size = info.nbytes // max(info.elements, 1)
    part = load_part(files, info.file, info.start + start * size, (stop - start) * size, slot=0)
    return torch.from_numpy(part.copy()).view(NUMBERS[info.dtype])  # torch has no tensors that are to be read only


def change_of(files: OpenFiles, a: TensorInfo, b: TensorInfo) -> Change:
    """Measure B − A; both of one shape, with dtypes in NUMBERS."""
    changed = not_finite = 0
    norm = base_norm = largest = 0.0
    for start, stop in _chunks(a.elements):
        left, right = numbers(files, a, start, stop), numbers(files, b, start, stop)
        before, after = left.double(), right.double()
        differs = _bits(left) != _bits(right) if a.dtype == b.dtype else _differ(before, after)
        changed += int(differs.sum())
        difference = after - before
        unsound = ~torch.isfinite(difference)
        if unsound.any():
            not_finite += int((unsound & differs).sum())
            difference[unsound] = 0.0
            before = torch.where(torch.isfinite(before), before, 0.0)
        norm += float(difference.dot(difference))
        base_norm += float(before.dot(before))
        largest = max(largest, float(difference.abs().max()))
    return Change(a.elements, changed, norm**0.5, base_norm**0.5, largest, not_finite)


def _chunks(elements: int) -> Iterator[tuple[int, int]]:
    for start in range(0, elements, CHUNK_ELEMENTS):
        yield start, min(start + CHUNK_ELEMENTS, elements)


def _bits(stored: Tensor) -> Tensor:
    return stored.view(_INTEGERS[stored.element_size()])


def _differ(before: Tensor, after: Tensor) -> Tensor:
    """Two NaN are no difference."""
    return (before != after) & ~(before.isnan() & after.isnan())
