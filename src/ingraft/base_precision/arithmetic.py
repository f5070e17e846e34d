"""Quantise and dequantise a weight on the CPU as bitsandbytes does, piece by piece.

Blocks of 4-bit weights and rows of 8-bit ones are independent of each other, so pieces give the same numbers as the
whole; what double quantisation makes of the blocks' scales is computed over all of them, as bitsandbytes does.

4-bit weights are unpacked as the vectors that they were quantised as. As a matrix, whose rows are no whole number of
blocks, the CPU kernel of bitsandbytes 0.50 takes the wrong scales; its GPU kernels know no matrices.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ingraft.base_precision.layers import QuantisedLayer, require_bitsandbytes
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
PIECE = 1 << 18  # elements; a multiple of every block size, and small enough for a core's cache
Read = Callable[[TensorInfo], Tensor]  # a tensor's numbers; of packed ones the bytes


def quiet_bitsandbytes() -> Any:
    """bitsandbytes.functional, imported without the hints that the package logs about other hardware."""
    require_bitsandbytes()
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("bitsandbytes.functional")
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class FourBit:
    """codes: uint8, two elements each; absmax: float32, the scale of each block."""

    codes: Tensor
    absmax: Tensor


def unpacked(layer: QuantisedLayer, read: Read) -> Tensor:
    """A packed weight as the layer computes with it: [out, in], in its dequantised dtype."""
    if layer.kind == "int8":
        return _from_int8(read(layer.packed["weight"]).view(torch.int8).reshape(layer.shape), read(layer.packed["SCB"]))
    functional = quiet_bitsandbytes()
    table = read(layer.packed["quant_map"]).float()
    if not torch.allclose(table, functional.get_4bit_type(layer.kind, device="cpu"), atol=1e-4):
        raise UnusableInput(f"{layer.packed['quant_map'].name} is not the table of {layer.kind}.")
    absmax = read(layer.packed["absmax"])
    if layer.nested_blocksize:
        state = functional.QuantState(
            absmax=read(layer.packed["nested_absmax"]),
            code=read(layer.packed["nested_quant_map"]),
            blocksize=layer.nested_blocksize,
            dtype=torch.float32,
        )
        absmax = functional.dequantize_blockwise(absmax.reshape(-1), state) + layer.nested_offset
    return _from_four_bit(FourBit(read(layer.packed["weight"]).reshape(-1), absmax.reshape(-1).float()), layer)


def as_seen(weight: Tensor, layer: QuantisedLayer) -> Tensor:
    """`weight` [out, in], as it was loaded, quantised and dequantised: what the layer computes with."""
    if layer.kind == "int8":
        return _through_int8(weight, layer)
    return _from_four_bit(_to_four_bit(weight.reshape(-1), layer), layer)


def _to_four_bit(flat: Tensor, layer: QuantisedLayer) -> FourBit:
    functional = quiet_bitsandbytes()
    count = flat.numel()
    codes = torch.empty((count + 1) // 2, dtype=torch.uint8)
    absmax = torch.empty(-(-count // layer.blocksize), dtype=torch.float32)
    for start in range(0, count, PIECE):
        packed, state = functional.quantize_4bit(
            flat[start : start + PIECE],
            blocksize=layer.blocksize,
            compress_statistics=False,
            quant_type=layer.kind,
        )
        codes[start // 2 : start // 2 + packed.numel()] = packed.reshape(-1)
        first = start // layer.blocksize
        absmax[first : first + state.absmax.numel()] = state.absmax
    if layer.nested_blocksize:
        offset = absmax.mean()
        compressed, nested = functional.quantize_blockwise(absmax - offset, blocksize=layer.nested_blocksize)
        absmax = functional.dequantize_blockwise(compressed, nested) + offset
    return FourBit(codes, absmax)


def _from_four_bit(packed: FourBit, layer: QuantisedLayer) -> Tensor:
    functional = quiet_bitsandbytes()
    dtype = DTYPES[layer.dequantised]
    flat = torch.empty(layer.elements, dtype=dtype)
    for start in range(0, layer.elements, PIECE):
        count = min(PIECE, layer.elements - start)
        first = start // layer.blocksize
        state = functional.QuantState(
            absmax=packed.absmax[first : first - (-count // layer.blocksize)],
            shape=torch.Size([count + count % 2]),  # the last byte holds two elements, needed or not
            blocksize=layer.blocksize,
            quant_type=layer.kind,
            dtype=dtype,
        )
        codes = packed.codes[start // 2 : (start + count + 1) // 2].unsqueeze(1)
        flat[start : start + count] = functional.dequantize_4bit(codes, state).reshape(-1)[:count]
    return flat.reshape(layer.shape)


def _rows(weight: Tensor) -> list[slice]:
    step = max(1, PIECE // max(1, weight.shape[1]))
    return [slice(at, at + step) for at in range(0, weight.shape[0], step)]


def _from_int8(weight: Tensor, scale: Tensor) -> Tensor:
    functional = quiet_bitsandbytes()
    result = torch.empty(weight.shape, dtype=torch.float32)
    for rows in _rows(weight):
        result[rows] = functional.int8_vectorwise_dequant(weight[rows], scale.reshape(-1)[rows])
    return result


def _through_int8(weight: Tensor, layer: QuantisedLayer) -> Tensor:
    functional = quiet_bitsandbytes()
    result = torch.empty(weight.shape, dtype=torch.float32)
    for rows in _rows(weight):
        half = weight[rows].to(torch.float16)  # what LLM.int8() quantises, whatever the model's dtype
        if not torch.isfinite(half).all():
            raise UnusableInput(f"{layer.parameter} does not fit into float16, which LLM.int8() quantises from.")
        codes, scale, _ = functional.int8_vectorwise_quant(half)
        result[rows] = functional.int8_vectorwise_dequant(codes, scale)
    return result
