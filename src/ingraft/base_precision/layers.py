"""A linear layer that training saw quantised: what was done to its weight, and where its numbers lie."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ingraft.checkpoint import FLOAT_NAMES, TensorInfo
from ingraft.errors import UnusableInput
from ingraft.naming import Region

Kind = Literal["nf4", "fp4", "int8"]
KINDS: Mapping[str, str] = {"nf4": "4-bit nf4", "fp4": "4-bit fp4", "int8": "8-bit LLM.int8()"}
FLOATS = ("F32", "BF16", "F16")
BLOCKSIZE, NESTED_BLOCKSIZE = 64, 256  # bitsandbytes' own, wherever no file says otherwise


@dataclass(frozen=True)
class QuantisedLayer:
    """The quantised weight of one linear layer, [out, in].

    parameter   its name
    shape       (out, in)
    transposed  the parameter is [in, out] in a plain checkpoint: transformers' Conv1D, which is quantised as [out, in]
    regions     where its numbers lie in the plain checkpoint
    loaded      dtype that the model was loaded in, which is what is quantised
    compute     dtype that the layer dequantises into when it computes
    packed      of a packed weight: part (`weight`, `absmax`, `SCB` …) → tensor; else empty
    blocksize   elements that share one absmax; `nested_blocksize` is that of the absmax themselves under double
                quantisation, else 0, and `nested_offset` their mean
    """

    parameter: str
    kind: Kind
    shape: tuple[int, int]
    transposed: bool
    regions: tuple[Region, ...]
    loaded: str
    compute: str
    packed: Mapping[str, TensorInfo] = field(default_factory=dict)
    blocksize: int = BLOCKSIZE
    nested_blocksize: int = 0
    nested_offset: float = 0.0

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def dequantised(self) -> str:
        """The dtype that holds the layer's numbers as they were computed with."""
        return "F32" if self.kind == "int8" else self.compute


def dtype_of(value: Any) -> str | None:
    """`F32` for `float32` or `torch.float32`; None for anything but the three dtypes that weights are computed in."""
    name = str(value).removeprefix("torch.")
    return next((stored for stored in FLOATS if FLOAT_NAMES[stored] == name), None)


def wider(first: str, second: str) -> str:
    """The smallest dtype that holds the numbers of both."""
    if first == second:
        return first
    return "F64" if "F64" in (first, second) else "F32"


def describe(kind: Kind, *, double: bool) -> str:
    return KINDS[kind] + (" with double quantisation" if double else "")


def require_bitsandbytes() -> None:
    """Raise UnusableInput where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UnusableInput(
            "Dequantised weights are computed with bitsandbytes, which is not installed.",
            hint="Install it with: pip install 'ingraft[quantized]'",
        )
