"""The header of a safetensors file, read and written without trusting a number in it.

Format: https://github.com/huggingface/safetensors#format. Eight bytes little-endian header size, the header as
JSON, then the tensors' bytes without gaps.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_DIMENSIONS = 32  # numpy's before 2.0; the product of a million of them takes minutes

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
FLOAT_NAMES: Mapping[str, str] = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def dtype_name(stored: str) -> str:
    """What torch and people call a dtype: `float32` for F32; what is no float keeps the file's own name."""
    return FLOAT_NAMES.get(stored, stored)


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: bytes [start, stop) of `file`, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def tensor_nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor; dtypes below a byte are packed."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


@dataclass(frozen=True)
class Header:
    """Tensors in the order of their bytes, and the free-form metadata."""

    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """The header of `path`, fully checked: sizes, dtypes, shapes, no gap, no overlap, nothing after the end.

    Raises UnusableInput that says what is wrong with which tensor.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            first = file.read(8)
            if len(first) < 8:
                raise UnusableInput(f"{path} is not a safetensors file: it has {size} bytes.", hint=_DOWNLOAD)
            length = struct.unpack("<Q", first)[0]
            if first.startswith(b"version "):
                raise UnusableInput(
                    f"{path} is a Git LFS pointer, not the weights.", hint="Fetch the file itself with: git lfs pull"
                )
            if length > MAX_HEADER_BYTES or length > size - 8:
                raise UnusableInput(
                    f"{path} is not a safetensors file: its header claims {length:,} bytes, the file has {size:,}.",
                    hint=_DOWNLOAD,
                )
            text = file.read(length)
    except FileNotFoundError:
        raise UnusableInput(f"{path} does not exist.") from None
    except OSError as error:
        raise UnusableInput(f"{path} cannot be read: {error.strerror}.") from None
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_unique(path), parse_constant=_refuse)
        if rb"\ud" in text or rb"\uD" in text:
            json.dumps(entries, ensure_ascii=False).encode()  # half a surrogate pair is no text: a ValueError
    except (ValueError, RecursionError):  # also a number of more than 4300 digits
        raise UnusableInput(
            f"{path} is not a sound safetensors file: its header is not JSON.", hint=_DOWNLOAD
        ) from None
    if not isinstance(entries, dict):
        raise UnusableInput(f"{path} is not a sound safetensors file: its header is no JSON object.", hint=_DOWNLOAD)
    metadata = entries.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnusableInput(f"{path} has metadata that are not strings.")
    data = 8 + length
    tensors = sorted(
        (_tensor(path, name, entry, data) for name, entry in entries.items()), key=lambda info: (info.start, info.stop)
    )
    _check_order(path, tensors, data, size)
    return Header(tuple(tensors), metadata)


_DOWNLOAD = "Download it again."


def _refuse(word: str) -> Any:
    """`NaN` and `Infinity`, which Python reads and JSON does not know."""
    raise ValueError(word)


def _unique(path: Path) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) != len(pairs):
            raise UnusableInput(f"{path} names a tensor twice in its header.")
        return built

    return build


def _tensor(path: Path, name: str, entry: Any, data: int) -> TensorInfo:
    if not isinstance(entry, dict):
        raise UnusableInput(f"{path}: the header entry of {name} is not an object.")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UnusableInput(f"{path}: {name} has the unknown dtype {dtype!r:.80}.")
    if not isinstance(shape, list) or not is_shape(shape):
        raise UnusableInput(f"{path}: {name} has no valid shape: {shape!r:.80}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        raise UnusableInput(f"{path}: {name} has no valid data_offsets: {offsets!r:.80}.")
    if math.prod(shape) * DTYPE_BITS[dtype] % 8:
        raise UnusableInput(f"{path}: {name} is {dtype} {shape}, which ends within a byte.")
    start, stop = offsets
    expected = tensor_nbytes(dtype, tuple(shape))
    if stop - start != expected:
        raise UnusableInput(
            f"{path}: {name} is {dtype} {shape}, {expected:,} bytes, but its data_offsets span {stop - start:,}.",
            hint=_DOWNLOAD,
        )
    return TensorInfo(name, dtype, tuple(shape), path, data + start, data + stop)


def is_shape(sizes: Sequence[Any]) -> bool:
    """Few enough sizes, and none whose product overflows: torch multiplies them before it sees that one is zero."""
    if len(sizes) > MAX_DIMENSIONS or not all(_is_count(size) for size in sizes):
        return False
    product: int = math.prod(size or 1 for size in sizes)
    return product < 2**63


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _check_order(path: Path, tensors: Iterable[TensorInfo], data: int, size: int) -> None:
    end, before = data, "the header"
    for info in tensors:
        if info.start != end:
            fault = "overlaps" if info.start < end else "leaves a gap after"
            raise UnusableInput(f"{path}: {info.name} {fault} {before}.", hint=_DOWNLOAD)
        if info.stop > size:
            raise UnusableInput(
                f"{path} is cut off: {info.name} ends at byte {info.stop:,}, the file at {size:,}.", hint=_DOWNLOAD
            )
        end, before = info.stop, info.name
    if end != size:
        raise UnusableInput(f"{path} has {size - end:,} bytes after its last tensor.", hint=_DOWNLOAD)


def write_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a safetensors file that holds (name, dtype, shape) in this order, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + tensor_nbytes(dtype, shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
