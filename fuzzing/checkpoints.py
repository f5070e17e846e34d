"""Fuzzes what reads checkpoints: `python fuzzing/checkpoints.py header|index|pickle|adapter-config --seconds 600`.

Needs atheris (pip install atheris). See engine.py for what is asked of every reader.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickletools
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
os.environ["HF_HUB_OFFLINE"] = "1"

from engine import Pick, Reader, Spoil, atheris, run  # noqa: E402

with atheris.instrument_imports(include=["ingraft", "pickletools", "zipfile"]):
    import torch
    from safetensors import safe_open

    from helpers.handmade import write_base
    from helpers.spoiling import json_bytes, spoiled, spoiled_bytes
    from ingraft.adapter import patterns
    from ingraft.checkpoint import open_checkpoint, read_header
    from ingraft.checkpoint.pickled import read_pickled
    from ingraft.cli.inspect import inspect
    from ingraft.errors import IngraftError, UnusableInput
    from ingraft.pipeline import run_plan
    from ingraft.plan import FILE_LAYOUTS, plan_merge

# Headers


def header(folder: Path) -> Reader:
    """What is accepted is also what the reference implementation reads there."""

    def read(root: Path, name: str) -> None:
        found = read_header(root / "x.safetensors")
        with safe_open(root / "x.safetensors", "pt") as reference:
            assert set(reference.keys()) == {info.name for info in found.tensors}
            for info in found.tensors:
                part = reference.get_slice(info.name)
                assert (part.get_dtype(), tuple(part.get_shape())) == (info.dtype, info.shape)

    return Reader({"x.safetensors": (_with_header(json_bytes(HEADER)), _spoiled_header)}, read, (UnusableInput,))


HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "encoder.layer.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "encoder.layer.0.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "F4", "shape": [0, 7], "data_offsets": [32, 32]},
}


def _with_header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(32)


def _spoiled_header(_: bytes, pick: Pick) -> bytes:
    if pick(3) == 0:
        return _with_header(spoiled_bytes(json_bytes(HEADER), pick))
    value = spoiled(HEADER, pick, keys=("dtype", "shape", "data_offsets", "__metadata__"))
    sizes = [pick(4) if pick(2) else pick(2**63) for _ in range(pick(40))]
    if pick(3) == 0 and isinstance(value, dict):
        value["more"] = {"dtype": ("F4", "U8", "C64")[pick(3)], "shape": sizes, "data_offsets": [32, 32]}
    return _with_header(json_bytes(value))


# Indices


def index(folder: Path) -> Reader:
    write_base(folder, shards=2)
    file = "model.safetensors.index.json"
    sound = (folder / file).read_bytes()
    names = set(json.loads(sound)["weight_map"])

    def read(root: Path, name: str) -> None:
        found = open_checkpoint(root)
        assert set(found.tensors) == names
        assert all(shard.path.resolve().parent == root.resolve() for shard in found.shards)

    return Reader({file: (sound, _spoiled_json)}, read, (UnusableInput,))


def _spoiled_json(sound: bytes, pick: Pick) -> bytes:
    content = json_bytes(spoiled(json.loads(sound), pick, keys=KEYS))
    if pick(8):
        return content
    return content.replace(b"{", b"{" + content[1 : 1 + pick(200)] + b",", 1) if pick(2) else b"[" * pick(5000)


# Pickles


def pickle(folder: Path) -> Reader:
    """What is accepted lies in the file, and holds the numbers that torch reads from it."""
    files = {f"{name}/pytorch_model.bin": (_saved(name != "older"), spoil) for name, spoil in PICKLES.items()}

    def read(root: Path, name: str) -> None:
        with _scratch(root):
            for info in (found := read_pickled(root / name)).tensors:
                assert 0 <= info.start <= info.stop <= info.file.stat().st_size
            numbers = {info.name: _bytes(info.file, info.start, info.stop) for info in found.tensors}
            _check_numbers(root / name, numbers)

    return Reader(files, read, (UnusableInput,))


def _saved(as_archive: bool) -> bytes:
    whole = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(
        a=whole, b=torch.ones(4, dtype=torch.bfloat16)[1:], c=torch.nn.Parameter(whole[0]), d=torch.tensor(3),
        e=torch.zeros(2, dtype=torch.float8_e4m3fn),
    )  # fmt: skip
    if not as_archive:
        state["f"], state["g"] = whole.T, torch.ones(2, dtype=torch.complex64).conj()
    made = io.BytesIO()
    torch.save(state, made, _use_new_zipfile_serialization=as_archive)
    return made.getvalue()


def _spoiled_archive(sound: bytes, pick: Pick) -> bytes:
    """A zip file whose checksums are right, with something else in one of its files, twice, or under another name."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as source, zipfile.ZipFile(made, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                content = _spoiled_pickle(content, pick)
            elif pick(16) == 0:
                content = spoiled_bytes(content, pick)
            name = entry.filename if pick(32) else f"archive/data/{pick(9)}"
            with contextlib.suppress(UserWarning):
                target.writestr(name, content)
    return made.getvalue()


def _spoiled_older(sound: bytes, pick: Pick) -> bytes:
    stream = io.BytesIO(sound)
    pickles = []
    for _ in range(5):
        start = stream.tell()
        list(pickletools.genops(stream))
        pickles.append(sound[start : stream.tell()])
    at = (3, 3, 3, 4, 2)[pick(5)]
    pickles[at] = _spoiled_pickle(pickles[at], pick)
    rest = sound[stream.tell() :]
    return b"".join(pickles) + (rest if pick(4) else spoiled_bytes(rest, pick))


INSTRUCTIONS = (
    *(bytes([code]) for code in b"N\x88\x89}])(t\x85\x86\x87aesuRbQ\x81.02"),
    b"K\0", b"K\1", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\t\0\0\0\0\0\0\0\0\1",
    b"\x8a\xff", b"G\x7f\xf8\0\0\0\0\0\0", b"X\1\0\0\0a", b"X\xff\xff\xff\x7fa", b"X\3\0\0\0\xed\xa0\x80",
    b"X\4\0\0\0conj", b"X\3\0\0\0neg", b"X\n\0\0\0state_dict", b"h\0", b"h\7", b"q\0", b"r\xff\xff\xff\xff",
    b"\x95\0\0\0\0\0\0\0\0", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"I99\n", b"L9L\n", b"V\\ud800\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor\n", b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n", b"ctorch\nByteStorage\n", b"ctorch\nSize\n",
    b"ctorch\nComplexFloatStorage\n", b"ctorch\nfloat16\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nbytearray\n",
    b"cos\nsystem\n",
)  # fmt: skip


def _spoiled_pickle(sound: bytes, pick: Pick) -> bytes:
    """One to four of its instructions left out, doubled, exchanged or put in between."""
    if pick(6) == 0:
        return spoiled_bytes(sound, pick)
    starts = [at for _, _, at in pickletools.genops(sound)]
    parts = [sound[start:stop] for start, stop in zip(starts, [*starts[1:], len(sound)], strict=True)]
    for _ in range(1 + pick(4)):
        at, other = pick(len(parts)), pick(len(parts))
        new = INSTRUCTIONS[pick(len(INSTRUCTIONS))]
        how = pick(5)
        if how == 0:
            parts[at], parts[other] = parts[other], parts[at]
        elif how == 1:
            parts[at : at + pick(4)] = []
            parts = parts or [b"."]
        elif how == 2:
            parts[at:at] = parts[other : other + 1 + pick(5)]
        else:
            parts[at : at + how - 3] = [new]
    return b"".join(parts)


PICKLES: dict[str, Spoil] = {"archive": _spoiled_archive, "older": _spoiled_older}


@contextlib.contextmanager
def _scratch(root: Path) -> Any:
    """Where an older file is converted."""
    with tempfile.TemporaryDirectory(dir=root) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = None


def _bytes(file: Path, start: int, stop: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(stop - start)


def _check_numbers(file: Path, found: dict[str, bytes]) -> None:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        numbers = {name: value.detach().resolve_conj().resolve_neg().contiguous() for name, value in state.items()}
    except Exception:  # it knows fewer ways to write a tensor down, and believes what is said about their sizes
        return
    assert found.keys() == numbers.keys()
    for name, number in numbers.items():
        assert found[name] == bytes(number.flatten().view(torch.uint8).tolist() if number.numel() else ()), name


# Configs of adapters


def adapter_config(folder: Path) -> Reader:
    """Adapters of many methods, one base: inspected, planned, and a part of those that can be are merged."""
    from transformers.utils.logging import disable_progress_bar

    from conformance.adapters import TUNERS, by_peft, config_for
    from conformance.architectures import base

    disable_progress_bar()  # type: ignore[no-untyped-call]
    patterns.SECONDS = 0.3
    shutil.copytree(base("bert"), folder / "base")
    files: dict[str, tuple[bytes, Spoil]] = {}
    for name in METHODS:
        made = folder / name
        shutil.copytree(
            by_peft(
                base("bert"),
                config_for(name, "bert", "embedding" if name == "tokens" else "linear"),
                size=TUNERS[name].size,
            ).folder,
            made,
        )
        files[f"{name}/adapter_config.json"] = (made / "adapter_config.json").read_bytes(), _spoiled_json
    weights = "lora/adapter_model.safetensors"
    files[weights] = (folder / weights).read_bytes(), _spoiled_numbers
    files["base/config.json"] = (folder / "base/config.json").read_bytes(), _spoiled_json

    def read(root: Path, name: str) -> None:
        adapter = root / ("lora" if name.startswith("base") else name.split("/")[0])
        chosen = zlib.crc32((root / name).read_bytes())  # the same for the same input, and any for others
        with contextlib.suppress(IngraftError), contextlib.redirect_stdout(io.StringIO()):
            inspect(str(adapter), str(root / "base"), ("human", "json")[chosen & 1])
        layout = FILE_LAYOUTS[chosen % 3]
        plan = plan_merge(adapter, root / "base", layout=layout, dtype=("auto", "bfloat16")[chosen & 1])
        json.dumps(plan.to_dict())
        if chosen % 16 == 0:
            try:
                run_plan(plan, root / "merged", workers=1)
            finally:
                shutil.rmtree(root / "merged", ignore_errors=True)

    return Reader(files, read, (IngraftError,))


METHODS = (
    "lora", "dora", "bdlora", "loha", "lokr", "oft", "boft", "ia3", "vera", "hra", "road", "fourierft", "c3a", "osf",
    "tokens", "adalora", "miss", "glora", "randlora", "vblora", "tinylora", "gralora",
)  # fmt: skip
KEYS = (
    "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "layers_pattern", "exclude_modules",
    "target_parameters", "trainable_token_indices", "use_rslora", "use_dora", "use_qalora", "use_bdlora", "lora_bias",
    "init_lora_weights", "fan_in_fan_out", "layer_replication", "revision", "bias", "peft_type", "task_type", "r",
    "lora_alpha", "quantization_config", "auto_map", "tie_word_embeddings", "dtype", "torch_dtype", "text_config",
    "vocab_size", "weight_map", "metadata", "architectures", "model_type", "hidden_size", "num_hidden_layers",
)  # fmt: skip


def _spoiled_numbers(sound: bytes, pick: Pick) -> bytes:
    """Other numbers where those of the tensors were: NaN, infinity, huge and tiny ones."""
    length = 8 + struct.unpack("<Q", sound[:8])[0]
    content = bytearray(sound)
    for _ in range(1 + pick(5)):
        at = length + 4 * pick((len(sound) - length) // 4)
        content[at : at + 4] = struct.pack(
            "<I", (0x7FC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 1, pick(2**32))[pick(6)]
        )
    return bytes(content)


READERS: dict[str, Callable[[Path], Reader]] = {
    "header": header,
    "index": index,
    "pickle": pickle,
    "adapter-config": adapter_config,
}

if __name__ == "__main__":
    run(READERS)
