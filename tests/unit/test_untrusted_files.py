"""Whatever stands in a file of somebody else's: a right answer or an error in words, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from helpers.files import snapshot, write_json
from helpers.handmade import write_adapter, write_base
from helpers.spoiling import Pick, json_bytes, spoiled, spoiled_bytes
from ingraft.adapter import open_adapter
from ingraft.card import write_card
from ingraft.checkpoint import open_checkpoint, read_header
from ingraft.checkpoint.pickled import read_pickled
from ingraft.errors import UnusableInput
from ingraft.front_matter import split_card
from ingraft.inspection import inspect
from ingraft.integrity import verify_hashes, verify_manifest
from ingraft.layout import read_layout, transformer_task
from ingraft.pipeline import merge
from ingraft.plan import plan_merge
from ingraft.report.effects import recorded_effects
from ingraft.report.parts import part_of, parts, read_manifest
from ingraft.steps import MergePlan
from ingraft.training.config_file import resolve
from ingraft.training.data import read_training_data
from ingraft.upload.card import short_card
from ingraft.upload.contents import open_contents
from ingraft.verification.report import VerificationReport


def settings_of(examples: int) -> settings:
    """The same examples in every run: a failure here is never news about the machine."""
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class Place:
    """A directory of sound files, in which some are spoiled at a time and put right again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, changes: dict[str, bytes], reader: Callable[[Path], Any]) -> None:
        """Let `reader` at the directory with the files of `changes`; it may refuse in words, and writes nothing."""
        before = {name: (self.root / name).read_bytes() for name in changes if (self.root / name).exists()}
        for name, content in changes.items():
            (self.root / name).write_bytes(content)
        there = sorted(self.root.rglob("*"))
        refused: UnusableInput | OSError | None = None
        try:
            reader(self.root)
        except (UnusableInput, OSError) as error:
            refused = error
        finally:
            left = sorted(self.root.rglob("*"))
            for name in changes:
                if name in before:
                    (self.root / name).write_bytes(before[name])
                else:
                    (self.root / name).unlink()
        assert left == there
        if isinstance(refused, OSError):
            assert refused.errno is not None, repr(refused)  # of a name that is too long: the command says it in words
        elif refused is not None:
            assert 0 < len(refused.message) < 20_000, refused.message[:200]


# Weights


def header_place(root: Path) -> Place:
    return Place(root)


HEADER: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "encoder.layer.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "encoder.layer.0.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "empty": {"dtype": "I64", "shape": [0], "data_offsets": [32, 32]},
}


def spoil_header(place: Place, pick: Pick) -> None:
    """What is accepted is also what the reference implementation reads there."""
    text = json_bytes(spoiled(HEADER, pick)) if pick(3) else spoiled_bytes(json_bytes(HEADER), pick)
    content = struct.pack("<Q", len(text)) + text + bytes(32)
    if pick(4) == 0:
        content = spoiled_bytes(content, pick)

    def read(root: Path) -> None:
        header = read_header(root / "x.safetensors")
        with safe_open(root / "x.safetensors", "pt") as reference:
            assert set(reference.keys()) == {info.name for info in header.tensors}
            for info in header.tensors:
                part = reference.get_slice(info.name)
                assert (part.get_dtype(), tuple(part.get_shape())) == (info.dtype, info.shape)

    place.read({"x.safetensors": content}, read)


def index_place(root: Path) -> Place:
    write_base(root, shards=2)
    return Place(root)


def spoil_index(place: Place, pick: Pick) -> None:
    name = "model.safetensors.index.json"
    sound = (place.root / name).read_bytes()
    content = json_bytes(spoiled(json.loads(sound), pick)) if pick(4) else spoiled_bytes(sound, pick)

    def read(root: Path) -> None:
        found = open_checkpoint(root)
        assert set(found.tensors) == set(json.loads(sound)["weight_map"])
        assert all(shard.path.resolve().parent == root.resolve() for shard in found.shards)

    place.read({name: content}, read)


def pickled_place(root: Path) -> Place:
    return Place(root)


def _pickles() -> tuple[bytes, ...]:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
    made = []
    for new in (True, False):
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=new)
        made.append(buffer.getvalue())
    return (*made, pickle.dumps({"a": [1, 2]}))


PICKLES = _pickles()


def spoil_pickle(place: Place, pick: Pick) -> None:
    sound = PICKLES[pick(len(PICKLES))]
    spoil = _spoiled_archive if sound is PICKLES[0] and pick(2) else spoiled_bytes
    content = spoil(sound, pick)

    def read(root: Path) -> None:
        for info in read_pickled(root / "pytorch_model.bin").tensors:
            assert 0 <= info.start <= info.stop <= info.file.stat().st_size

    place.read({"pytorch_model.bin": content}, read)


def _spoiled_archive(sound: bytes, pick: Pick) -> bytes:
    """A sound zip file with other bytes in its pickle: what a checksum does not stop."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as source, zipfile.ZipFile(made, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry, spoiled_bytes(content, pick) if entry.filename.endswith("data.pkl") else content)
    return made.getvalue()


# Directories


def model_place(root: Path) -> Place:
    """A base in root/base, a Sentence Transformers adapter in root/adapter."""
    base = write_base(root / "base", sentence_transformers=True)
    write_json(base / "tokenizer.json", {"model": {"vocab": {"a": 0}}, "added_tokens": []})
    write_json(base / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 32})
    adapter = write_adapter(root / "adapter", base)
    shutil.copytree(
        base, adapter, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.safetensors", "config.json")
    )
    shutil.copytree(base / "1_Pooling", adapter / "1_Pooling", dirs_exist_ok=True)
    (base / "vocab.txt").write_text("a")
    write_json(
        adapter / "adapter_config.json",
        {
            **json.loads((adapter / "adapter_config.json").read_text()),
            "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "layers_to_transform": None,
            "layers_pattern": None, "use_rslora": False, "use_dora": False, "exclude_modules": None,
        },
    )  # fmt: skip
    return Place(root)


CONFIG_KEYS = (
    "target_parameters", "trainable_token_indices", "use_qalora", "use_bdlora", "lora_bias", "init_lora_weights",
    "fan_in_fan_out", "layer_replication", "revision", "corda_config", "eva_config", "loftq_config",
    "quantization_config", "auto_map",
    "tie_word_embeddings", "dtype", "torch_dtype", "text_config", "model_max_length", "extra_special_tokens",
    "added_tokens_decoder", "pooling_mode", "transformer_task", "model_type", "activation_fn", "id2label", "types",
    "max_seq_length", "mask_token", "model_input_names",
)  # fmt: skip
SMALL_FILES = (
    "adapter/adapter_config.json", "adapter/adapter_config.json", "adapter/adapter_config.json", "adapter/modules.json",
    "adapter/sentence_bert_config.json", "adapter/config_sentence_transformers.json", "adapter/1_Pooling/config.json",
    "adapter/tokenizer.json", "adapter/tokenizer_config.json", "base/modules.json", "base/config.json",
    "base/sentence_bert_config.json", "base/tokenizer.json", "base/tokenizer_config.json",
)  # fmt: skip
METHODS = ("LORA", "IA3", "OFT", "VERA", "ADALORA", "LOKR", "LN_TUNING", "C3A", "FOURIERFT", "PROMPT_TUNING", "XLORA")


def spoil_small_file(place: Place, pick: Pick) -> None:
    name = SMALL_FILES[pick(len(SMALL_FILES))]
    sound = json.loads((place.root / name).read_text())
    value = spoiled(sound, pick, keys=CONFIG_KEYS)
    if name.endswith("adapter_config.json") and isinstance(value, dict) and pick(4) == 0:
        value["peft_type"] = METHODS[pick(len(METHODS))]
    content = json_bytes(value) if pick(8) else spoiled_bytes(json_bytes(value), pick)
    dtype: Any = ("auto", "float16")[pick(2)]
    layout: Any = ("portable", "legacy", "keep")[pick(3)]

    def read(root: Path) -> None:
        read_layout(root / "adapter")
        transformer_task(read_layout(root / "base"))
        open_adapter(root / "adapter")
        with contextlib.suppress(UnusableInput):
            inspect(root / "adapter")
        plan = plan_merge(root / "adapter", root / "base", dtype=dtype, layout=layout)
        _check_stays_inside(plan)
        json.dumps(plan.to_dict())

    place.read({name: content}, read)


def _check_stays_inside(plan: MergePlan) -> None:
    paths = [shard.file for shard in plan.shards] + [file.path for file in (*plan.carried, *plan.written)]
    for path in paths:
        assert ".." not in Path(path).parts
        assert not Path(path).is_absolute()


# Training


def training_place(root: Path) -> Place:
    return Place(root)


ROWS: list[dict[str, Any]] = [
    {"anchor": f"question {n}", "positive": f"answer {n}", "score": n / 4, "negative": [f"no {n}"]} for n in range(4)
]
CSV = b'anchor,positive,score\n"a, b",c,0.1\nd,"e\nf",0.9\ng,h,0.5\n'


def spoil_data(place: Place, pick: Pick) -> None:
    how = pick(5)
    if how == 0:
        name, content = ("x.csv", "x.tsv")[pick(2)], spoiled_bytes(CSV, pick)
    elif how == 1:
        name, content = "x.json", json_bytes(spoiled(ROWS, pick))
    elif how == 2:
        name, content = "x.json", spoiled_bytes(json_bytes(ROWS), pick)
    else:
        lines = [json_bytes(spoiled(row, pick) if pick(2) else row) for row in ROWS]
        name, content = "x.jsonl", b"\n".join(lines)
        content = spoiled_bytes(content, pick) if how == 4 else content
    skip = bool(pick(2))

    def read(root: Path) -> None:
        data = read_training_data(root / name, skip_bad_rows=skip)
        lengths = {len(values) for values in data.columns.values()}
        assert lengths == {len(data)}

    place.read({name: content}, read)


YAML = b"""model: a-model
data: rows.csv
output: out
epochs: 2
lora:
  r: 8
  alpha: 16
columns: {anchor: question, positive: answer}
more_data:
  - data: other.csv
    loss: auto
target_modules: [query, value]
"""
PLAIN: dict[str, Any] = {
    "model": "a", "data": "b.csv", "output": "c", "lora": {"r": 8}, "columns": {"anchor": "x"}, "epochs": 2,
    "more_data": [{"data": "x.csv", "loss_arguments": {"scale": 2}}], "target_modules": ["query"],
}  # fmt: skip


def spoil_config(place: Place, pick: Pick) -> None:
    content = spoiled_bytes(YAML, pick) if pick(2) else json_bytes(spoiled(PLAIN, pick))
    place.read({"x.yaml": content}, lambda root: resolve(root / "x.yaml", {}))


# What merges have written, and cards beside them


METADATA: dict[str, Any] = {
    "license": "mit", "language": ["no", "de"], "tags": ["a", "peft"], "base_model": "a/b", "version": "1.10",
    "nested": [{"name": "x", "results": [{"value": 0.5}]}],
}  # fmt: skip
SET_BY_A_MERGE = ("base_model", "library_name", "license", "license_name", "license_link", "pipeline_tag", "tags")


def card_place(root: Path) -> Place:
    place = model_place(root)
    (root / "out").mkdir()
    for folder in ("base", "adapter", "out"):
        (root / folder / "README.md").write_text("# Mine\n")
    return place


def spoil_card(place: Place, pick: Pick) -> None:
    """What a merge does not set in a card stays as it was; one that cannot be read stays whole."""
    front = spoiled(METADATA, pick)
    entries = front.items() if isinstance(front, dict) else [("a", front)]
    lines = b"".join(b"%s: %s\n" % (key.encode("utf-8", "replace"), json_bytes(value)) for key, value in entries)
    content = b"---\n" + (lines if pick(3) else spoiled_bytes(lines, pick)) + b"---\n# Mine\n"
    plan = plan_merge(place.root / "adapter", place.root / "base")

    def read(root: Path) -> None:
        given = (root / "out" / "README.md").read_text("utf-8", errors="replace")
        write_card(plan, root / "out", None)
        text = (root / "out" / "README.md").read_text("utf-8")
        before, after = split_card(given)[0], split_card(text)[0]
        assert (before is None) == (after is None)
        for key, value in (before or {}).items():
            assert key in SET_BY_A_MERGE or (after or {})[key] == value
        assert before is not None or text.startswith(given[: given.index("# Mine")] if "# Mine" in given else "")

    place.read({f"{folder}/README.md": content for folder in ("base", "adapter", "out")}, read)


def merged_place(root: Path) -> Place:
    place = model_place(root)
    merge(root / "adapter", root / "merged", base=root / "base")
    return place


def spoil_manifest(place: Place, pick: Pick) -> None:
    name = "merged/ingraft.json"
    sound = (place.root / name).read_bytes()
    keys = ("schema", "files", "verification", "export", "tensors", "rounding_loss")
    content = json_bytes(spoiled(json.loads(sound), pick, keys=keys)) if pick(4) else spoiled_bytes(sound, pick)
    plan = plan_merge(place.root / "adapter", place.root / "base")

    def read(root: Path) -> None:
        folder = root / "merged"
        checks = (*verify_manifest(folder, workers=1), *verify_hashes(folder, workers=1))
        json.dumps(VerificationReport(checks).to_dict())
        assert all(len(check.where) < 5_000 for check in checks)
        found = read_manifest(folder)
        parts(plan, folder, found)
        recorded_effects(plan, part_of(found, "verification", "figures").get("tensors"))
        with contextlib.suppress(UnusableInput):
            short_card(open_contents(folder))

    place.read({name: content}, read)


Target = tuple[Callable[[Path], Place], Callable[[Place, Pick], None], int]
TARGETS: dict[str, Target] = {
    "safetensors header": (header_place, spoil_header, 200),
    "safetensors index": (index_place, spoil_index, 100),
    "pickled checkpoint": (pickled_place, spoil_pickle, 60),
    "small files of adapter and base": (model_place, spoil_small_file, 200),
    "training data": (training_place, spoil_data, 150),
    "training config": (training_place, spoil_config, 100),
    "model card": (card_place, spoil_card, 100),
    "manifest": (merged_place, spoil_manifest, 150),
}


@pytest.mark.parametrize("target", TARGETS)
def test_spoiled(target: str, tmp_path: Path) -> None:
    make, spoil, examples = TARGETS[target]
    place = make(tmp_path)
    sound = snapshot(tmp_path)

    @settings_of(examples)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        spoil(place, lambda count: data.draw(st.integers(0, count - 1)))

    run()

    assert snapshot(tmp_path) == sound
