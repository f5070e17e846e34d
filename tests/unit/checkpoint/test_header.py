"""The header of a safetensors file: what safetensors wrote is read as it is, and nothing unsound is read at all."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from helpers.files import raw_file
from ingraft.checkpoint import dtype_name, read_header, tensor_nbytes, write_header
from ingraft.checkpoint.header import DTYPE_BITS, MAX_HEADER_BYTES
from ingraft.errors import UnusableInput

TORCH = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
}  # fmt: skip

# The same examples in every run: a failure here is never news about the machine.
quick = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def test_names_of_dtypes_are_torchs() -> None:
    assert [dtype_name(name) for name in ("F32", "BF16", "F16", "F64", "I8")] == [
        *(str(TORCH[name]).removeprefix("torch.") for name in ("F32", "BF16", "F16", "F64")),
        "I8",
    ]


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    drawn = draw(st.dictionaries(names, st.tuples(st.sampled_from(sorted(TORCH)), shapes), max_size=6))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randint(2 if dtype == "BOOL" else 256, (tensor_nbytes(dtype, shape),), generator=generator)
        .to(torch.uint8)
        .view(TORCH[dtype])
        .reshape(shape)
        for name, (dtype, shape) in drawn.items()
    }


def read_bytes(content: bytes) -> Any:
    """read_header of a file with this content; the file is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        return read_header(path)


def safetensors_reads(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, "np"):
                return True
        except SafetensorError:
            return False


@quick
@given(tensors(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_reads_what_safetensors_wrote(given: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    content = save(given, metadata or None)

    header = read_bytes(content)

    assert dict(header.metadata) == metadata
    assert {info.name for info in header.tensors} == set(given)
    for info in header.tensors:
        tensor = given[info.name]
        assert TORCH[info.dtype] == tensor.dtype
        assert info.shape == tuple(tensor.shape)
        assert info.elements == tensor.numel()
        assert content[info.start : info.stop] == tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@quick
@given(tensors(), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_writes_what_safetensors_reads(given: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    described = [(info.name, info.dtype, info.shape) for info in read_bytes(save(given)).tensors]
    header = write_header(described, metadata)
    data = b"".join(given[name].flatten().view(torch.uint8).numpy().tobytes() for name, _, _ in described)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        path.write_bytes(header + data)
        assert len(header) % 8 == 0
        assert [(i.name, i.dtype, i.shape) for i in read_header(path).tensors] == described
        with safe_open(path, "pt") as file:
            assert (file.metadata() or {}) == metadata
            for name, tensor in given.items():
                found = file.get_tensor(name)
                assert found.dtype == tensor.dtype
                assert found.shape == tensor.shape
                assert found.flatten().view(torch.uint8).equal(tensor.flatten().view(torch.uint8))


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


UNSOUND: dict[str, bytes] = {
    "empty": b"",
    "shorter than the length": b"\1\0\0",
    "length beyond the file": raw_file({}, length=10_000),
    "length of 2^64 - 1": raw_file({}, length=2**64 - 1),
    "length beyond the limit": raw_file({}, length=MAX_HEADER_BYTES + 1),
    "length of zero": raw_file(b""),
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "a web page": b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head></html>",
    "not UTF-8": raw_file(b'{"\xff":{}}'),
    "not JSON": raw_file(b"{'a': 1}"),
    "two documents": raw_file(b"{}{}"),
    "a list": raw_file([]),
    "a string": raw_file("abc"),
    "null": raw_file(None),
    "nested deeply": raw_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "tensor twice": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "key twice in an entry": raw_file(b'{"a":{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}}', bytes(8)),
    "name of half a surrogate pair": raw_file(
        b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)
    ),
    "metadata of half a surrogate pair": raw_file(b'{"__metadata__":{"format":"\\ud800"}}'),
    "half a surrogate pair in a field that nobody reads": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"b":"\\uDFFF"}}', bytes(8)
    ),
    "infinity in a field that nobody reads": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"b":-Infinity}}', bytes(8)
    ),
    "dtype without an end": raw_file({"a": entry("F" * 5000)}, bytes(8)),
    "metadata of numbers": raw_file({"__metadata__": {"a": 1}}),
    "metadata in a list": raw_file({"__metadata__": ["a"]}),
    "metadata in an empty list": raw_file({"__metadata__": []}),
    "metadata of zero": raw_file({"__metadata__": 0}),
    "metadata of an empty string": raw_file({"__metadata__": ""}),
    "entry of a number": raw_file({"a": 1}),
    "entry of nothing": raw_file({"a": {}}),
    "unknown dtype": raw_file({"a": entry("F33")}, bytes(8)),
    "dtype of a number": raw_file({"a": entry(32)}, bytes(8)),
    "dtype of a list": raw_file({"a": entry(["F32"])}, bytes(8)),
    "shape of a number": raw_file({"a": entry(shape=2)}, bytes(8)),
    "shape of floats": raw_file({"a": entry(shape=[2.0])}, bytes(8)),
    "shape of booleans": raw_file({"a": entry(shape=[2, True])}, bytes(8)),
    "shape of strings": raw_file({"a": entry(shape=["2"])}, bytes(8)),
    "negative shape": raw_file({"a": entry(shape=[-1, -2])}, bytes(8)),
    "not a number": raw_file(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
    "infinite offset": raw_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,Infinity]}}', bytes(8)),
    "shape that overflows": raw_file({"a": entry(shape=[2**32, 2**32])}, bytes(8)),
    "shape whose product takes minutes": raw_file({"a": entry(shape=[2**62] * 400_000)}, bytes(8)),
    "shape of more dimensions than numpy has": raw_file({"a": entry(shape=[1] * 99 + [2])}, bytes(8)),
    "shape that overflows before it is empty": raw_file({"a": entry(shape=[2**40, 2**40, 0], offsets=[0, 0])}),
    "half a byte": raw_file({"a": entry("F4", [3], [0, 1])}, bytes(1)),
    "shape that overflows to what is there": raw_file({"a": entry(shape=[2**62 + 2])}, bytes(8)),
    "shape of 2^70": raw_file({"a": entry(shape=[2**70])}, bytes(8)),
    "number of 5000 digits": raw_file(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}'),
    "one offset": raw_file({"a": entry(offsets=[0])}, bytes(8)),
    "three offsets": raw_file({"a": entry(offsets=[0, 4, 8])}, bytes(8)),
    "no offsets": raw_file({"a": entry(offsets=None)}, bytes(8)),
    "negative offset": raw_file({"a": entry(offsets=[-8, 0])}, bytes(8)),
    "offsets turned round": raw_file({"a": entry(offsets=[8, 0])}, bytes(8)),
    "offsets too near": raw_file({"a": entry(offsets=[0, 4])}, bytes(8)),
    "offsets too far": raw_file({"a": entry(offsets=[0, 12])}, bytes(12)),
    "beyond the end": raw_file({"a": entry(offsets=[0, 8])}, bytes(7)),
    "far beyond the end": raw_file({"a": entry(shape=[2**40], offsets=[0, 2**42])}, bytes(8)),
    "gap at the start": raw_file({"a": entry(offsets=[8, 16])}, bytes(16)),
    "gap between": raw_file({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "overlap": raw_file({"a": entry(), "b": entry(offsets=[4, 12])}, bytes(12)),
    "the same bytes twice": raw_file({"a": entry(), "b": entry()}, bytes(8)),
    "bytes after the end": raw_file({"a": entry()}, bytes(9)),
    "nothing but bytes": raw_file({}, bytes(1)),
}


@pytest.mark.parametrize("content", UNSOUND.values(), ids=UNSOUND.keys())
def test_refuses_unsound(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(UnusableInput) as refused:
        read_header(path)

    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("name", sorted(UNSOUND.keys() - {"tensor twice", "shape of more dimensions than numpy has"}))
def test_unsound_is_unsound_for_safetensors_too(name: str) -> None:
    """Nothing else in the list above would be loaded by the reference implementation."""
    assert not safetensors_reads(UNSOUND[name])


def test_lfs_pointer_says_how_to_get_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(UNSOUND["Git LFS pointer"])

    with pytest.raises(UnusableInput, match=r"Git LFS pointer.*git lfs pull"):
        read_header(path)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(UnusableInput, match="cannot be read"):
        read_header(tmp_path)


def sample() -> bytes:
    return save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, {"format": "pt"})


@quick
@given(st.data())
def test_damaged_bytes_are_read_as_safetensors_reads_them_or_refused(data: st.DataObject) -> None:
    """Flip, insert or cut anything: the answer is a sound table or UnusableInput, never another exception."""
    content = bytearray(sample())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "insert", "cut", "truncate"]))
        if action == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif action == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif action == "cut":
            del content[at : at + data.draw(st.integers(1, 9))]
        elif at:
            del content[at:]
    check_table_or_refusal(bytes(content))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F32", "BF16", "BOOL"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(st.data())
def test_damaged_headers_are_read_as_safetensors_reads_them_or_refused(data: st.DataObject) -> None:
    """Exchange one value of a sound header for any other JSON."""
    content = sample()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = data.draw(st.sampled_from(["a", "b", "__metadata__"]))
    field = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", None]))
    if field is None:
        header[name] = data.draw(json_values)
    else:
        numbers = st.lists(st.integers(-1, 40) | st.just(2**63) | st.just(2**64), max_size=3)
        header[name][field] = data.draw(json_values | numbers)
    check_table_or_refusal(raw_file(header, content[8 + length :]))


def check_table_or_refusal(content: bytes) -> None:
    try:
        header = read_bytes(content)
    except UnusableInput:
        return
    end = None
    for info in header.tensors:
        assert end in (None, info.start)
        assert info.stop - info.start == tensor_nbytes(info.dtype, info.shape)
        end = info.stop
    assert end in (None, len(content))
    assert safetensors_reads(content)


def test_order_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_file({"b": entry(offsets=[8, 16]), "a": entry()}, bytes(16)))

    assert [info.name for info in read_header(path).tensors] == ["a", "b"]


def test_empty_tensors_and_scalars(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"none": torch.empty(0, 5), "scalar": torch.tensor(3.0), "more": torch.ones(2)}, path)

    found = {info.name: (info.shape, info.elements, info.nbytes) for info in read_header(path).tensors}

    assert found == {"none": ((0, 5), 0, 0), "scalar": ((), 1, 4), "more": ((2,), 2, 8)}


@pytest.mark.parametrize("dtype", sorted(DTYPE_BITS))
def test_sizes_of_all_dtypes(dtype: str, tmp_path: Path) -> None:
    """Four elements of every dtype; safetensors agrees on how many bytes they take."""
    nbytes = tensor_nbytes(dtype, (4,))
    content = raw_file({"a": entry(dtype, [4], [0, nbytes])}, bytes(nbytes))

    (info,) = read_bytes(content).tensors

    assert (info.dtype, info.nbytes) == (dtype, nbytes)
    assert safetensors_reads(content)
    assert not safetensors_reads(raw_file({"a": entry(dtype, [4], [0, nbytes + 1])}, bytes(nbytes + 1)))


def test_characters_beyond_the_first_65536() -> None:
    """Two halves of a surrogate pair, as JSON writers escape them, are one character."""
    text = rb'{"__metadata__":{"a":"\ud83d\ude00"},"\ud83d\ude00":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'

    header = read_bytes(raw_file(text, bytes(1)))

    assert dict(header.metadata) == {"a": "😀"}
    assert [info.name for info in header.tensors] == ["😀"]
