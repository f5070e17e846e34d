"""The two files that torch.save has written: the pickle in each, as plain values, and where its storages lie.

Since torch 1.6 a zip archive with every storage uncompressed in it; before, five pickles with the storages behind them.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from ingraft.checkpoint.header import DTYPE_BITS
from ingraft.checkpoint.inert import Global, read_inert

MAX_PICKLE_BYTES = 64 * 1024 * 1024  # of 100,000 tensors: some 15 MB

DTYPES: Mapping[str, str] = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "complex64": "C64", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64", "UntypedStorage": "U8",
}  # fmt: skip

# Functions that make tensors, and which argument says that the numbers are meant conjugated or negated.
TENSORS = {
    Global("torch._utils", "_rebuild_tensor"): 4,
    Global("torch._utils", "_rebuild_tensor_v2"): 6,
    Global("torch._utils", "_rebuild_tensor_v3"): 7,
}
WITH_DTYPE = Global("torch._utils", "_rebuild_tensor_v3")  # argument 6 is the dtype
PARAMETERS = (Global("torch._utils", "_rebuild_parameter"), Global("torch._utils", "_rebuild_parameter_with_state"))
SIZE = Global("torch", "Size")
# What torch takes for harmless too.
_HARMLESS: Mapping[str, tuple[str, ...]] = {
    "collections": ("OrderedDict", "Counter"),
    "torch._utils": (
        "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage", "_rebuild_nested_tensor",
        "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy", "_rebuild_device_tensor_from_cpu_tensor",
    ),
    "torch._tensor": ("_rebuild_from_type_v2",),
    "torch.nn.parameter": ("Parameter",),
    "torch.serialization": ("_get_layout",),
    "torch.storage": ("UntypedStorage", "TypedStorage"),
    "torch": (
        *DTYPES, *_STORAGES, "Tensor", "device", "complex128", "ComplexDoubleStorage", "QInt8Storage", "QUInt8Storage",
        "QInt32Storage", "per_tensor_affine", "per_channel_affine",
    ),
    "torch.cuda": tuple(_STORAGES),
    "_codecs": ("encode",),
    "builtins": ("bytearray", "set", "complex"),
    "__builtin__": ("bytearray", "set", "complex"),
}  # fmt: skip
_ALLOWED = frozenset({
    *TENSORS, *PARAMETERS, SIZE, *(Global(module, name) for module, names in _HARMLESS.items() for name in names)
})  # fmt: skip


class CannotStream(Exception):
    """The file is sound, and its numbers do not lie in it as they are."""


@dataclass(frozen=True)
class Storage:
    """Elements [first, first + count) of what lies under `key`."""

    key: str
    dtype: str
    first: int
    count: int


@dataclass(frozen=True)
class TorchFile:
    """What torch.save was given, with a `Storage` in the place of every one, and where each lies: [start, stop)."""

    value: Any
    places: Mapping[str, tuple[int, int]]
    is_archive: bool


def read_torch_file(file: IO[bytes]) -> TorchFile:
    """Read `file` without its storages. Raises CannotStream, NotInert, and whatever a broken file leads to."""
    is_archive = file.read(4) == b"PK\3\4"  # which is how torch tells them apart
    file.seek(0)
    return _archive(file) if is_archive else _older(file)


def _storage(name: Any) -> Storage:
    """By torch's name for it: ("storage", type, key, device, elements[, a part of it: (key, first, elements)])."""
    kind, dtype, key, _, count, *part = name
    if kind != "storage" or not isinstance(dtype, Global) or not isinstance(key, str):
        raise pickle.UnpicklingError("something else than a storage lies beside the pickle")
    if dtype.name not in _STORAGES:
        raise CannotStream(f"a {dtype.name}")
    first, count = part[0][1:] if part and part[0] is not None else (0, count)
    if not (type(first) is type(count) is int and first >= 0 <= count):
        raise ValueError("the size of a storage is no number of elements")
    return Storage(key, _STORAGES[dtype.name], first, count)


def _archive(file: IO[bytes]) -> TorchFile:
    entries = zipfile.ZipFile(file).infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CannotStream("a compressed archive (another tool packed it again)")
    places = {entry.filename: _place(file, entry) for entry in entries}
    found = [entry for entry in entries if entry.filename.count("/") == 1 and entry.filename.endswith("/data.pkl")]
    if len(places) < len(entries) or len(found) != 1:
        raise zipfile.BadZipFile("the archive has no data.pkl, or two files of the same name")
    content = _small(file, places[found[0].filename])
    if zlib.crc32(content) != found[0].CRC:
        raise zipfile.BadZipFile("data.pkl does not have the checksum that the archive has for it")
    root = found[0].filename.removesuffix("data.pkl")
    order = places.get(f"{root}byteorder")
    _check_order(order is None or _small(file, order) == b"little")
    data = f"{root}data/"
    return TorchFile(
        read_inert(io.BytesIO(content), _ALLOWED, _storage),
        {name.removeprefix(data): place for name, place in places.items() if name.startswith(data)},
        is_archive=True,
    )


def _check_order(little: bool) -> None:
    if not little:
        raise CannotStream("big-endian numbers")


def _place(file: IO[bytes], entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of a stored entry lie: behind its own header, which says how long its name is there."""
    file.seek(entry.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\3\4" or entry.flag_bits & 1:
        raise zipfile.BadZipFile("an entry of the archive is encrypted or does not lie where its directory says")
    name, extra = struct.unpack("<HH", header[26:30])
    start = entry.header_offset + 30 + name + extra
    if start + entry.file_size > os.fstat(file.fileno()).st_size:
        raise zipfile.BadZipFile("the archive is cut off")
    return start, start + entry.file_size


def _small(file: IO[bytes], place: tuple[int, int]) -> bytes:
    start, stop = place
    if stop - start > MAX_PICKLE_BYTES:
        raise ValueError(f"the pickle has {stop - start:,} bytes, too many for names and shapes")
    file.seek(start)
    return file.read(stop - start)


_MAGIC = 0x1950A86A20F9469CFC6C


def _older(file: IO[bytes]) -> TorchFile:
    """Magic number, version, machine, value, keys; then for each key a number of elements and the elements."""
    dtypes: dict[str, str] = {}

    def storage(name: Any) -> Storage:
        found = _storage(name)
        dtypes[found.key] = found.dtype
        return found

    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    magic, version, machine, value, keys = (read_inert(pickles, _ALLOWED, storage) for _ in range(5))
    if magic != _MAGIC or version != 1001 or not isinstance(machine, dict):
        raise pickle.UnpicklingError("it is no checkpoint of torch")
    _check_order(machine.get("little_endian") is True)
    at, places = pickles.tell(), {}
    for key in keys:
        if not isinstance(key, str):
            raise pickle.UnpicklingError("the name of a storage is no text")
        file.seek(at)
        (count,) = struct.unpack("<Q", file.read(8))
        places[key] = at + 8, at + 8 + count * DTYPE_BITS[dtypes[key]] // 8
        at = places[key][1]
        if at > os.fstat(file.fileno()).st_size:
            raise EOFError("it is cut off")
    return TorchFile(value, places, is_archive=False)
