"""Merged directories that were tampered with: `ingraft verify` finds every one, says which check failed, and where.

Each of them is looked at twice: against its manifest as published, and with a manifest that was made to fit.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers.files import edit_json, write_json
from helpers.merging import Run, cli, merged, merged_once
from helpers.models import TARGETS, config_of, copy_of, fill_weights, lora_config, sentence_adapter, sentence_base
from ingraft.checkpoint import read_header

WEIGHTS = "model.safetensors"
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Model:
    """edited, untouched  pairs of tensors of one shape"""

    base: Path
    adapter: Path
    edited: tuple[str, str]
    untouched: tuple[str, str]

    def copy(self) -> Path:
        return copy_of(merged_once(self.adapter))


@functools.cache
def model(name: str) -> Model:
    architecture, dtype = name.split(" ")
    if architecture == "bert":
        base = sentence_base("bert", dtype, dense=True)
        attention = "encoder.layer.{}.attention.self.{}"
        config = lora_config("bert", target_modules=["query", "value"])
        edited = attention.format(0, "query.weight"), attention.format(1, "value.weight")
        untouched = attention.format(0, "key.weight"), attention.format(1, "key.weight")
    else:
        base = tied_base(dtype)
        config = lora_config("qwen3", target_modules=[*TARGETS["qwen3"][:3], "embed_tokens"])
        layer = "model.layers.{}.{}.weight"
        edited = layer.format(0, "self_attn.k_proj"), layer.format(1, "self_attn.v_proj")
        untouched = layer.format(0, "mlp.up_proj"), layer.format(1, "mlp.gate_proj")
    return Model(base, sentence_adapter(base, config), edited, untouched)


def tied_base(dtype: str) -> Path:
    """A Sentence Transformers directory around the file of a language model whose output layer is the embedding."""
    folder = copy_of(sentence_base("qwen3", dtype))
    language_model = transformers.AutoModelForCausalLM.from_config(config_of("qwen3", tie_word_embeddings=True))
    fill_weights(language_model)
    language_model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


MODELS = ["bert float32", "bert bfloat16", "bert float16", "qwen3 float32", "qwen3 bfloat16"]


# What is done to the weights


def flip(path: Path, at: int, mask: int = 0xFF) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ mask]))


def flip_in(folder: Path, tensor: str, *, byte: int = -1, mask: int = 0xFF) -> None:
    """Flip bits of the highest byte of the element in the middle, or of another one of its bytes."""
    path = folder / WEIGHTS
    info = next(info for info in read_header(path).tensors if info.name == tensor)
    size = info.nbytes // info.elements
    flip(path, info.start + info.elements // 2 * size + byte % size, mask)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], file: str = WEIGHTS) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def swap(folder: Path, one: str, other: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    change_weights(folder, change)


def weights_of(folder: Path, other: Path) -> None:
    shutil.copy(other / WEIGHTS, folder / WEIGHTS)


def merged_twice(folder: Path, made: Model) -> None:
    weights_of(folder, merged(made.adapter, "--base", merged_once(made.adapter)))


def half_the_scale(folder: Path, made: Model) -> None:
    adapter = copy_of(made.adapter)
    edit_json(adapter / "adapter_config.json", lora_alpha=8)
    weights_of(folder, merged(adapter))


def layers_exchanged(folder: Path, made: Model) -> None:
    """The adapter of layer 0 on layer 1, and the other way round."""
    adapter = copy_of(made.adapter)
    file = adapter / "adapter_model.safetensors"
    turned = {"0": "1", "1": "0"}
    tensors = {
        ".".join(turned.get(part, part) for part in name.split(".")): value for name, value in load_file(file).items()
    }
    save_file(tensors, file, metadata={"format": "pt"})
    weights_of(folder, merged(adapter))


def a_smaller_shift(folder: Path, made: Model) -> None:
    """Every number of an edited tensor a hundredth larger."""
    change_weights(folder, lambda tensors: tensors[made.edited[1]].mul_(1.01))


# What is done to the other files


def another_pooling(folder: Path, made: Model) -> None:
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode="cls")


def another_vocabulary(folder: Path, made: Model) -> None:
    """The same words, other numbers."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: (len(words) - number) % len(words) for word, number in words.items()}
    write_json(file, tokenizer)


def adapter_left(folder: Path, made: Model) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(made.adapter / name, folder)


def module_left_out(folder: Path, made: Model) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", [module for module in modules if module["path"] != "2_Dense"])


@dataclass(frozen=True)
class Tampering:
    """What is done to a copy, which check finds it whatever the manifest says, and what that check must name."""

    check: str
    do: Callable[[Path, Model], object]
    name: Callable[[Model], str]


TAMPERING: Mapping[str, Tampering] = {
    "byte of the header": Tampering("structure", lambda folder, made: flip(folder / WEIGHTS, 12), lambda made: WEIGHTS),
    "metadata": Tampering(
        "structure",
        lambda folder, made: save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"format": "tf"}),
        lambda made: WEIGHTS,
    ),
    "tensor dropped": Tampering(
        "structure",
        lambda folder, made: change_weights(folder, lambda tensors: tensors.pop(made.untouched[0])),
        lambda made: made.untouched[0],
    ),
    "tensor added": Tampering(
        "structure",
        lambda folder, made: change_weights(folder, lambda tensors: tensors.update({"new": torch.ones(1)})),
        lambda made: "new in model.safetensors",
    ),
    "tensor in another dtype": Tampering(
        "structure",
        lambda folder, made: change_weights(
            folder, lambda tensors: tensors.update({made.edited[0]: tensors[made.edited[0]].double()})
        ),
        lambda made: made.edited[0],
    ),
    "weights cut off": Tampering(
        "structure",
        lambda folder, made: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
        lambda made: WEIGHTS,
    ),
    "weights gone": Tampering("structure", lambda folder, made: (folder / WEIGHTS).unlink(), lambda made: WEIGHTS),
    "byte of an untouched tensor": Tampering(
        "untouched tensors",
        lambda folder, made: flip_in(folder, made.untouched[0]),
        lambda made: made.untouched[0],
    ),
    "lowest bit of an untouched tensor": Tampering(
        "untouched tensors",
        lambda folder, made: flip_in(folder, made.untouched[1], byte=0, mask=1),
        lambda made: made.untouched[1],
    ),
    "two untouched tensors swapped": Tampering(
        "untouched tensors", lambda folder, made: swap(folder, *made.untouched), lambda made: made.untouched[1]
    ),
    "byte of an edited tensor": Tampering(
        "probes", lambda folder, made: flip_in(folder, made.edited[0]), lambda made: made.edited[0]
    ),
    "two edited tensors swapped": Tampering(
        "probes", lambda folder, made: swap(folder, *made.edited), lambda made: made.edited[1]
    ),
    "one tensor a hundredth larger": Tampering(
        "probes",
        lambda folder, made: change_weights(folder, lambda tensors: tensors[made.edited[1]].mul_(1.01)),
        lambda made: made.edited[1],
    ),
    "merged twice": Tampering("probes", merged_twice, lambda made: ".weight"),
    "half the scale": Tampering("probes", half_the_scale, lambda made: ".weight"),
    "A and B of two layers exchanged": Tampering("probes", layers_exchanged, lambda made: ".weight"),
    "base, unmerged": Tampering("probes", lambda folder, made: weights_of(folder, made.base), lambda made: ".weight"),
    "another pooling": Tampering("files", another_pooling, lambda made: "1_Pooling/config.json"),
    "pooling gone": Tampering(
        "structure", lambda folder, made: shutil.rmtree(folder / "1_Pooling"), lambda made: "1_Pooling/config.json"
    ),
    "tokenizer of another vocabulary": Tampering("files", another_vocabulary, lambda made: "tokenizer.json"),
    "adapter left": Tampering("no adapter left", adapter_left, lambda made: "adapter_config.json"),
    "other weights beside": Tampering(
        "no other files",
        lambda folder, made: shutil.copy(made.base / WEIGHTS, folder / "pytorch_model.bin"),
        lambda made: "pytorch_model.bin",
    ),
    "code beside": Tampering(
        "no other files",
        lambda folder, made: (folder / "1_Pooling" / "modeling.py").write_text("raise SystemExit"),
        lambda made: "1_Pooling/modeling.py",
    ),
}
TAMPERING_WITH_DENSE: Mapping[str, Tampering] = {
    "Dense gone": Tampering(
        "structure", lambda folder, made: shutil.rmtree(folder / "2_Dense"), lambda made: "2_Dense/config.json"
    ),
    "Dense left out of modules.json": Tampering("files", module_left_out, lambda made: "modules.json"),
    "byte of Dense": Tampering(
        "files", lambda folder, made: flip(folder / "2_Dense" / WEIGHTS, 300), lambda made: "2_Dense/model.safetensors"
    ),
}
CASES = [
    pytest.param(name, tampering, id=f"{name}, {what}")
    for name in MODELS
    for what, tampering in {**TAMPERING, **(TAMPERING_WITH_DENSE if name.startswith("bert") else {})}.items()
]


def verify(folder: Path, *options: str | Path) -> Mapping[str, Mapping[str, Any]]:
    """The checks that failed, by name; the exit code says the same, and there is no traceback."""
    run: Run = cli("verify", folder, "--format", "json", *options)
    report = json.loads(run.out)
    assert run.err == ""
    failed = {check["name"]: check for check in report["checks"] if not check["passed"]}
    assert (run.code, report["passed"]) == ((1, False) if failed else (0, True))
    return failed


def make_manifest_fit(folder: Path) -> None:
    """What somebody would do who has read how the manifest works."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "ingraft.json"]
    hashes = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    edit_json(folder / "ingraft.json", files=hashes)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_not_tampered_with_passes(name: str) -> None:
    made = model(name)
    assert verify(merged_once(made.adapter)) == {}
    assert verify(merged_once(made.adapter), "--adapter", made.adapter, "--no-embeddings") == {}


@pytest.mark.parametrize(("name", "tampering"), CASES)
def test_tampering_is_found(name: str, tampering: Tampering) -> None:
    made = model(name)
    folder = made.copy()
    tampering.do(folder, made)

    alone = verify(folder)
    assert {"published files", "no other files"} & alone.keys()

    make_manifest_fit(folder)
    failed = verify(folder, "--adapter", made.adapter, "--no-embeddings")
    assert tampering.name(made) in failed[tampering.check]["where"]
    assert "published files" not in failed


@pytest.mark.parametrize("mask", [1, 0xFF], ids=["one bit", "all bits"])
@pytest.mark.parametrize("name", MODELS)
def test_the_lowest_byte_of_an_edited_tensor_is_found_by_its_hash(name: str, mask: int) -> None:
    """Rounding may have moved an element as far: no forward pass can tell (docs/verification.md has the limit)."""
    made = model(name)
    folder = made.copy()
    flip_in(folder, made.edited[0], byte=0, mask=mask)

    for options in ([], ["--adapter", made.adapter, "--no-embeddings"]):
        assert WEIGHTS in verify(folder, *options)["published files"]["where"]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("name", ["bert float32", "qwen3 bfloat16"])
def test_a_byte_of_any_other_file_is_found(name: str, place: str) -> None:
    """Most flips of a first byte leave something that is not JSON: that is a failed check too, no error."""
    made = model(name)
    files = json.loads((merged_once(made.adapter) / "ingraft.json").read_text())["files"]
    names = [name for name in files if name not in (WEIGHTS, "README.md") and files[name] != EMPTY]
    assert {"config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"} <= set(names)
    for file in names:
        folder = made.copy()
        size = (folder / file).stat().st_size
        flip(folder / file, {"first": 0, "middle": size // 2, "last": size - 1}[place], mask=0x11)

        assert file in verify(folder)["published files"]["where"]
        make_manifest_fit(folder)
        assert file in verify(folder, "--adapter", made.adapter, "--no-embeddings")["files"]["where"]


MANIFESTS: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "of another schema": (lambda manifest: manifest.update(schema=99), "schema 99"),
    "without files": (lambda manifest: manifest.pop("files"), "no list of files"),
    "with no file": (lambda manifest: manifest.update(files={}), "no list of files"),
    "with numbers for hashes": (lambda manifest: manifest["files"].update(x=1), "no list of files"),
    "of a file elsewhere": (lambda manifest: manifest["files"].update({"../x": "0"}), "outside"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_makes_no_sense(what: str) -> None:
    made = model("bert float32")
    folder = made.copy()
    change, words = MANIFESTS[what]
    manifest = json.loads((folder / "ingraft.json").read_text())
    change(manifest)
    write_json(folder / "ingraft.json", manifest)

    for options in ([], ["--adapter", made.adapter, "--no-embeddings"]):
        assert words in verify(folder, *options)["manifest"]["where"]


def test_a_manifest_that_is_not_json() -> None:
    folder = model("bert float32").copy()
    flip(folder / "ingraft.json", 0)

    assert "is not" in verify(folder)["manifest"]["where"]


def test_a_manifest_that_is_gone() -> None:
    """Nothing to check against: said so. The full proof does not need it."""
    made = model("bert float32")
    folder = made.copy()
    (folder / "ingraft.json").unlink()

    run = cli("verify", folder)

    assert (run.code, run.out) == (2, "")
    assert "has no ingraft.json" in run.err
    assert "--adapter" in run.err
    assert verify(folder, "--adapter", made.adapter, "--no-embeddings") == {}


def test_what_may_change(tmp_path: Path) -> None:
    """The model card belongs to its owner; git and the Hub's cache keep hidden files beside the model."""
    made = model("bert float32")
    folder = made.copy()
    (folder / "README.md").write_text("mine")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "adapter_config.json").write_text("{}")

    assert verify(folder) == {}
    assert verify(folder, "--adapter", made.adapter, "--no-embeddings") == {}


def test_a_merge_without_proof_is_not_called_intact() -> None:
    """Its weights were not hashed: verify says so, and proves the model all the same when it gets the adapter."""
    made = model("bert float32")
    folder = merged(made.adapter, "--no-verify")

    failed = verify(folder)

    assert failed.keys() == {"hashes"}
    assert "--no-verify" in failed["hashes"]["where"]
    assert WEIGHTS in failed["hashes"]["where"]
    assert verify(folder, "--adapter", made.adapter, "--no-embeddings") == {}


def test_options_that_need_the_adapter() -> None:
    folder = merged_once(model("bert float32").adapter)
    for options in (["--base", folder], ["--texts", folder], ["--report", folder / "x.html"]):
        run = cli("verify", folder, *options)
        assert (run.code, run.out) == (2, "")
        assert f"{options[0]} belongs to the proof" in run.err


def test_people_read_what_failed_in_a_line_each() -> None:
    made = model("bert float32")
    folder = made.copy()
    flip_in(folder, made.untouched[0])
    adapter_left(folder, made)

    run = cli("verify", folder, "--adapter", made.adapter, "--no-embeddings")

    assert run.code == 1
    lines = run.out.splitlines()
    assert any(
        re.match(rf"FAILED +untouched tensors: {made.untouched[0]} differs from the base", line) for line in lines
    )
    assert any(re.match("FAILED +no adapter left: adapter_config.json", line) for line in lines)


# The models' answers, the slowest witness


def test_another_pooling_changes_the_answers() -> None:
    made = model("bert float32")
    folder = made.copy()
    another_pooling(folder, made)

    failed = verify(folder, "--adapter", made.adapter)

    assert {"files", "published files", "embeddings"} <= failed.keys()
    assert failed["embeddings"]["value"] > failed["embeddings"]["limit"]


def test_a_model_that_does_not_load_fails_the_check() -> None:
    made = model("bert float32")
    folder = made.copy()
    flip(folder / "modules.json", 0)

    failed = verify(folder, "--adapter", made.adapter)

    assert "modules.json" in failed["files"]["where"]
    assert "modules.json is not" in failed["embeddings"]["where"]


def test_an_adapter_beside_the_weights_is_not_applied_in_silence() -> None:
    made = model("bert float32")
    folder = made.copy()
    adapter_left(folder, made)

    failed = verify(folder, "--adapter", made.adapter)

    assert {"no adapter left", "embeddings"} <= failed.keys()
