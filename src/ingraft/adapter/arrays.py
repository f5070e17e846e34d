"""Adapter tensors as numpy arrays, for figures that need no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ingraft.checkpoint import TensorInfo
from ingraft.reading import read_into

if TYPE_CHECKING:
    import numpy


def read_array(info: TensorInfo) -> numpy.ndarray[Any, Any] | None:
    """The tensor in float32, or None for a dtype that numpy lacks."""
    import numpy

    raw = numpy.empty(info.nbytes, numpy.uint8)
    with info.file.open("rb", buffering=0) as file:
        read_into(file, info.start, raw)
    if info.dtype == "BF16":  # the upper half of a float32
        values = (raw.view("<u2").astype("<u4") << 16).view("<f4")
    elif info.dtype in ("F16", "F32", "F64"):
        with numpy.errstate(over="ignore"):  # a large float64 is infinite then
            values = raw.view({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[info.dtype]).astype("<f4", copy=False)
    else:
        return None
    return values.reshape(info.shape)
