"""pytorch_model.bin: its tensors are found where they lie, and no code in it is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.tensors import read_tensor
from ingraft.checkpoint.pickled import read_pickled
from ingraft.checkpoint.transfer import open_files
from ingraft.errors import UnusableInput

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool,
]  # fmt: skip


class Bomb:
    """Unpickled without care, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "run"))


class ExecBomb(Bomb):
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').write('run')",))


def read_all(path: Path) -> dict[str, Tensor]:
    with open_files() as files:
        return {info.name: read_tensor(files, info) for info in read_pickled(path).tensors}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reads_every_dtype(dtype: torch.dtype, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    state = {
        "a": (torch.randn(3, 5) * 3).to(dtype),
        "b": torch.ones(7, dtype=dtype),
        "scalar": torch.tensor(1, dtype=dtype),
    }
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)

    found = read_all(path)

    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_module_state_with_parameters(tmp_path: Path) -> None:
    """The OrderedDict of a module carries attributes of its own; parameters are not plain tensors."""
    path = tmp_path / "pytorch_model.bin"
    layer = torch.nn.Linear(3, 2)
    torch.save(OrderedDict(layer.state_dict(), **{"own.weight": layer.weight}), path)

    found = read_all(path)

    assert torch.equal(found["weight"], layer.weight)
    assert torch.equal(found["own.weight"], layer.weight)


def test_tensors_below_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": {"a": torch.arange(3.0)}, "epoch": 4}, path)

    assert torch.equal(read_all(path)["a"], torch.arange(3.0))


def test_tied_storage_and_views(tmp_path: Path) -> None:
    """Two names for one storage, and a slice of it, are each read whole."""
    path = tmp_path / "pytorch_model.bin"
    whole = torch.randn(6, 4)
    torch.save({"embed": whole, "decoder": whole, "rows": whole[2:5]}, path)

    found = read_all(path)

    assert torch.equal(found["embed"], whole)
    assert torch.equal(found["decoder"], whole)
    assert torch.equal(found["rows"], whole[2:5])


def test_strided_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.randn(4, 4).T}, path)

    with pytest.raises(UnusableInput, match=r"a .*strides.*safe_serialization"):
        read_pickled(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("bomb", [Bomb, ExecBomb])
def test_code_is_not_run(bomb: type[Bomb], legacy: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "marker"
    torch.save({"a": torch.ones(2), "b": bomb(marker)}, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(UnusableInput, match="would run code"):
        read_pickled(path)

    assert not marker.exists()


@pytest.mark.parametrize(
    "broken", [b"\x80\x02.", b"\x80\x02J\x01.", b"\x80\x02h\x07.", b"\x80\x02)R.", b"\x80\x02}K\x01K\x02u.", b""]
)
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "bare"])
def test_broken_pickles(broken: bytes, archive: bool, tmp_path: Path) -> None:
    """An empty stack, a number that ends too early, an object that was never stored: said in words."""
    path, sound = tmp_path / "pytorch_model.bin", tmp_path / "sound.bin"
    torch.save({"a": torch.ones(2)}, sound)
    if archive:
        with zipfile.ZipFile(sound) as source, zipfile.ZipFile(path, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                target.writestr(entry, broken if entry.filename.endswith("data.pkl") else content)
    else:
        path.write_bytes(broken + bytes(8))

    with pytest.raises(UnusableInput, match=re.escape(str(path))):
        read_pickled(path)


def test_archive_over_several_disks(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path)
    content = path.read_bytes()
    at = content.rindex(b"PK\x06\x07")  # where the end of the directory lies, and on which of how many disks
    path.write_bytes(content[: at + 16] + (2).to_bytes(4, "little") + content[at + 20 :])

    with pytest.raises(UnusableInput, match="cannot be read"):
        read_pickled(path)


def test_bare_pickle_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "pytorch_model.bin", tmp_path / "marker"
    path.write_bytes(pickle.dumps(ExecBomb(marker)))

    with pytest.raises(UnusableInput):
        read_pickled(path)

    assert not marker.exists()


@pytest.mark.parametrize(
    "state",
    [[torch.ones(2)], torch.ones(2), {"a": 3}, {"a": "b"}, {1: torch.ones(2)}, {"a": {"b": torch.ones(2)}}, None],
    ids=["list", "tensor", "number", "string", "key", "nested", "nothing"],
)
def test_anything_but_a_state_dict_is_refused(state: Any, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)

    with pytest.raises(UnusableInput, match="not a state dict"):
        read_pickled(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated_file_is_refused(share: float, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.randn(64, 64), "b": torch.randn(64)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    with pytest.raises(UnusableInput) as refused:
        read_pickled(path)

    assert str(path) in refused.value.message


@pytest.mark.parametrize("content", [b"", b"abc", b"<!DOCTYPE html>" * 9, bytes(1000), b"PK\3\4" + bytes(100)])
def test_anything_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)

    with pytest.raises(UnusableInput):
        read_pickled(path)


def repack(path: Path, compression: int) -> None:
    """The same zip archive, written again by another tool."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)


def test_repacked_without_compression(tmp_path: Path) -> None:
    path, tensor = tmp_path / "pytorch_model.bin", torch.randn(50, 3)
    torch.save({"a": tensor}, path)
    repack(path, zipfile.ZIP_STORED)

    assert torch.equal(read_all(path)["a"], tensor)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(10_000.0),
        lambda: torch.randn(10_000),
        # deflate cannot make these smaller: everything seems to be where it should
        lambda: torch.randint(-(2**62), 2**62, (10_000,)),
    ],
    ids=["even", "normal", "incompressible"],
)
def test_repacked_with_compression_is_refused_or_right(make: Callable[[], Tensor], tmp_path: Path) -> None:
    """Compressed bytes taken for numbers would be a wrong model that nobody notices."""
    path, tensor = tmp_path / "pytorch_model.bin", make()
    torch.save({"a": tensor, "b": tensor + 1}, path)
    repack(path, zipfile.ZIP_DEFLATED)

    try:
        found = read_all(path)
    except UnusableInput:
        return
    assert torch.equal(found["a"], tensor)
    assert torch.equal(found["b"], tensor + 1)


def test_legacy_tensors_are_streamed_from_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3), "b": torch.ones(4)[1:]}, path, _use_new_zipfile_serialization=False)

    assert {info.file for info in read_pickled(path).tensors} == {path}


STRANGE = {
    "transposed": lambda: torch.randn(3, 4).T,
    "a column": lambda: torch.randn(5, 4)[2:, 1],
    "repeated": lambda: torch.randn(3, 1).expand(3, 4),
    "conjugated": lambda: torch.randn(4, dtype=torch.complex64).conj(),
    "negated": lambda: torch.randn(4, dtype=torch.complex64).conj().imag,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("strange", STRANGE)
def test_numbers_that_do_not_lie_in_the_file_as_they_are(strange: str, legacy: bool, tmp_path: Path) -> None:
    """Refused in a zip file, converted from an older one; never the stored numbers in the place of those meant."""
    path, tensor = tmp_path / "pytorch_model.bin", STRANGE[strange]()
    torch.save({"a": tensor, "b": torch.ones(2)}, path, _use_new_zipfile_serialization=not legacy)

    if not legacy:
        with pytest.raises(UnusableInput, match=r"a \(.*cannot be streamed.*safe_serialization"):
            read_pickled(path)
    else:
        (converted,) = {info.file for info in read_pickled(path).tensors}
        assert torch.equal(load_file(converted)["a"], tensor.resolve_conj().resolve_neg())


def test_views_that_repeat_a_small_file_into_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(1).expand(2**40)}, path, _use_new_zipfile_serialization=False)

    with pytest.raises(UnusableInput, match="repeat them to"):
        read_pickled(path)


class Rebuilt:
    """Pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


STORAGE = torch.storage.TypedStorage(
    wrap_storage=torch.arange(6.0).untyped_storage(), dtype=torch.float32, _internal=True
)
ODD_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "none": (),
    "no storage": (3, 0, (2,), (1,), False, OrderedDict()),
    "negative offset": (STORAGE, -1, (2,), (1,), False, OrderedDict()),
    "offset behind the end": (STORAGE, 5, (2,), (1,), False, OrderedDict()),
    "offset of text": (STORAGE, "0", (2,), (1,), False, OrderedDict()),
    "negative stride": (STORAGE, 3, (2,), (-1,), False, OrderedDict()),
    "fewer strides": (STORAGE, 0, (2, 3), (1,), False, OrderedDict()),
    "negative size": (STORAGE, 0, (-2,), (1,), False, OrderedDict()),
    "huge size": (STORAGE, 0, (2**70,), (1,), False, OrderedDict()),
    "size without strides": (STORAGE, 0, 2, 1, False, OrderedDict()),
    "many sizes": (STORAGE, 0, (1,) * 1000, (1,) * 1000, False, OrderedDict()),
    "metadata that are no dict": (STORAGE, 0, (2,), (1,), False, OrderedDict(), 5),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("odd", ODD_ARGUMENTS)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_odd_arguments_of_a_tensor(odd: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    tensor = Rebuilt(torch._utils._rebuild_tensor_v2, *ODD_ARGUMENTS[odd])
    torch.save({"a": tensor}, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(UnusableInput, match=re.escape(str(path))):
        read_pickled(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "value",
    [
        Rebuilt(bytearray, 2**40),
        Rebuilt(torch.Tensor, 2**20, 2**20),
        Rebuilt(torch._utils._rebuild_parameter, 5, True, OrderedDict()),
        torch.ones(3, 3).to_sparse(),
        torch.empty(2**20, 2**20, device="meta"),
    ],
    ids=["bytes", "tensor class", "parameter of a number", "sparse", "meta"],
)
def test_what_has_no_numbers_of_its_own_in_the_file(value: Any, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": value}, path, _use_new_zipfile_serialization=not legacy)

    with pytest.raises(UnusableInput, match="cannot be streamed"):
        read_pickled(path)


def with_entry(path: Path, ending: str, change: Callable[[bytes], bytes]) -> None:
    """The archive again, with another content of one entry."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    assert any(name.endswith(ending) and change(content) != content for name, content in entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, change(content) if name.endswith(ending) else content)


def test_storage_that_claims_what_lies_behind_it(tmp_path: Path) -> None:
    """Read as it claims, it would be the numbers of the next tensor."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(200), "b": torch.zeros(20_000)}, path)
    with_entry(path, "data.pkl", lambda content: content.replace(b"K\xc8", b"M\x10\x27"))  # 200, 10,000

    with pytest.raises(UnusableInput, match="cut off within a"):
        read_pickled(path)


def test_big_endian_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(2)}, path)
    with_entry(path, "byteorder", lambda content: b"big")

    with pytest.raises(UnusableInput, match="big-endian"):
        read_pickled(path)


def test_key_that_takes_for_ever_to_hash(tmp_path: Path) -> None:
    """A tuple of twice the same tuple of twice the same tuple …: small in a file, 2^60 numbers for a hash."""
    path, key = tmp_path / "pytorch_model.bin", b"K\x01q\x01"
    for _ in range(60):
        key += b"h\x01\x86q\x01"
    torch.save({"a": torch.ones(2)}, path)
    with_entry(path, "data.pkl", lambda _: b"\x80\x02}" + key + b"K\x02s.")

    with pytest.raises(UnusableInput, match="not a state dict"):
        read_pickled(path)


def test_legacy_copy_is_removed_at_exit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3, 2).T}, path, _use_new_zipfile_serialization=False)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    code = (
        "import sys; from pathlib import Path; from ingraft.checkpoint.pickled import read_pickled\n"
        "print(read_pickled(Path(sys.argv[1])).tensors[0].file.is_file())"
    )
    monkeypatch.setenv("TMPDIR", str(temporary))

    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)

    assert (run.returncode, run.stdout, run.stderr) == (0, "True\n", "")
    assert list(temporary.iterdir()) == []
