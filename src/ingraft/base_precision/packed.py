"""Weights that bitsandbytes has packed, by their companions in the checkpoint.

4-bit: `X` holds two elements a byte in any dtype, `X.absmax` the largest of each block, `X.quant_map` the table,
`X.quant_state.bitsandbytes__nf4` JSON; under double quantisation `X.nested_absmax` and `X.nested_quant_map` too.
8-bit: `m.weight` is int8, `m.SCB` the largest element of each row, `m.weight_format` the byte 0.
Sizes are checked here: bitsandbytes' kernels trust them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ingraft.base_model import BaseModel
from ingraft.base_precision.layers import QuantisedLayer, dtype_of
from ingraft.checkpoint import Checkpoint, TensorInfo
from ingraft.errors import UnusableInput
from ingraft.naming import Region
from ingraft.naming.direct import layer_kind

_STATES = {"quant_state.bitsandbytes__nf4": "nf4", "quant_state.bitsandbytes__fp4": "fp4"}
_FOUR_BIT = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", *_STATES)
_EIGHT_BIT = ("SCB", "weight_format")
_BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
_LARGEST_STATE = 1 << 16


def companions(checkpoint: Checkpoint) -> Mapping[str, Mapping[str, TensorInfo]]:
    """Packed weight → its companions by their suffix."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for info in checkpoint:
        for owner, suffix in _owners(info.name):
            if owner in checkpoint.tensors:
                found.setdefault(owner, {})[suffix] = info
    return found


def _owners(name: str) -> Iterator[tuple[str, str]]:
    for suffix in _FOUR_BIT:
        if name.endswith(f".{suffix}"):
            yield name.removesuffix(f".{suffix}"), suffix
    for suffix in _EIGHT_BIT:
        if name.endswith(f".{suffix}"):
            yield name.removesuffix(suffix) + "weight", suffix


def packed_layers(model: BaseModel, *, loaded: str, compute: str) -> tuple[QuantisedLayer, ...]:
    """Every packed weight of `model`. Raises UnusableInput for one that is not whole."""
    layers = []
    for name, parts in companions(model.checkpoint).items():
        info = model.checkpoint.tensors[name]
        read = _eight_bit if "SCB" in parts or info.dtype == "I8" else _four_bit
        layer = read(info, parts, loaded, compute)
        conv1d = layer_kind(name, _plain(info, layer.shape), model.config) == "conv1d"
        rows = layer.shape[1] if conv1d else layer.shape[0]
        region = Region(name, (0, layer.elements), (0, rows))
        layers.append(replace(layer, transposed=conv1d, regions=(region,)))
    known = {layer.parameter for layer in layers}
    for info in model.checkpoint:
        if info.dtype in ("U8", "I8") and len(info.shape) == 2 and info.name not in known:
            raise _fault(info, "is packed, and nothing in the checkpoint says how to unpack it")
    return tuple(layers)


def _plain(info: TensorInfo, shape: tuple[int, int]) -> TensorInfo:
    return TensorInfo(info.name, "F32", shape, info.file, info.start, info.stop)


def _four_bit(info: TensorInfo, parts: Mapping[str, TensorInfo], loaded: str, compute: str) -> QuantisedLayer:
    states = [suffix for suffix in _STATES if suffix in parts]
    if len(states) != 1:
        raise _fault(info, "is packed in 4 bits, and its quant_state is not in the checkpoint")
    state = _read_state(parts[states[0]])
    shape: Any = state.get("shape")
    blocksize: Any = state.get("blocksize")
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(_is_count(size) and size > 0 for size in shape)
        or not _is_blocksize(blocksize)
        or state.get("quant_type") != _STATES[states[0]]
        or dtype_of(state.get("dtype")) is None
    ):
        raise _fault(parts[states[0]], f"does not describe a packed linear layer: {state}")
    elements = math.prod(shape)
    blocks = -(-elements // blocksize)
    nested = "nested_absmax" in parts
    nested_blocksize = state.get("nested_blocksize") if nested else 0
    offset = state.get("nested_offset", 0.0)
    if nested and not (_is_blocksize(nested_blocksize) and isinstance(offset, (int, float)) and math.isfinite(offset)):
        raise _fault(parts[states[0]], "does not describe its double quantisation")
    if info.nbytes != (elements + 1) // 2:
        raise _fault(info, f"has {info.nbytes:,} bytes, expected {(elements + 1) // 2:,} for 4 bits of {shape}")
    _expect(info, parts, "absmax", blocks, "U8" if nested else "F32")
    _expect(info, parts, "quant_map", 16, "F32")
    if nested:
        _expect(info, parts, "nested_absmax", -(-blocks // int(nested_blocksize or 1)), "F32")
        _expect(info, parts, "nested_quant_map", 256, "F32")
    return QuantisedLayer(
        parameter=info.name,
        kind="nf4" if _STATES[states[0]] == "nf4" else "fp4",
        shape=(shape[0], shape[1]),
        transposed=False,
        regions=(),
        loaded=dtype_of(state["dtype"]) or loaded,
        compute=compute,
        packed={"weight": info, **parts},
        blocksize=blocksize,
        nested_blocksize=int(nested_blocksize or 0),
        nested_offset=float(offset),
    )


def _eight_bit(info: TensorInfo, parts: Mapping[str, TensorInfo], loaded: str, compute: str) -> QuantisedLayer:
    if info.dtype != "I8" or len(info.shape) != 2:
        raise _fault(info, f"has an SCB and is {info.dtype} {list(info.shape)}, expected an int8 matrix")
    _expect(info, parts, "SCB", info.shape[0], "F32")
    layout = parts.get("weight_format")
    if layout is not None and any(_read(layout)):
        raise _fault(layout, "says that the weight is not stored by rows, a form that bitsandbytes has given up")
    return QuantisedLayer(
        parameter=info.name,
        kind="int8",
        shape=(info.shape[0], info.shape[1]),
        transposed=False,
        regions=(),
        loaded=loaded,
        compute=compute,
        packed={"weight": info, **parts},
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_blocksize(value: Any) -> bool:
    return _is_count(value) and value in _BLOCKSIZES


def _expect(info: TensorInfo, parts: Mapping[str, TensorInfo], part: str, elements: int, dtype: str) -> None:
    found = parts.get(part)
    if found is None:
        raise _fault(info, f"is packed, and its {part} is not in the checkpoint")
    if found.elements != elements or found.dtype != dtype:
        raise _fault(found, f"is {found.dtype} {list(found.shape)}, expected {elements:,} elements of {dtype}")


def _read_state(info: TensorInfo) -> dict[str, Any]:
    try:
        state = json.loads(_read(info).decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise _fault(info, "is not the JSON that bitsandbytes writes") from None
    if not isinstance(state, dict):
        raise _fault(info, "is not a JSON object")
    return state


def _read(info: TensorInfo) -> bytes:
    if info.nbytes > _LARGEST_STATE:
        raise _fault(info, f"has {info.nbytes:,} bytes, too many for what it should say")
    with info.file.open("rb") as file:
        file.seek(info.start)
        return file.read(info.nbytes)


def _fault(info: TensorInfo, what: str) -> UnusableInput:
    return UnusableInput(
        f"{info.file}: {info.name} {what}.", hint="Save the base again, or pass the original model with --base."
    )
