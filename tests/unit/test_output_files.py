"""Which files make up the merged model besides its weights, and from where each comes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from helpers.files import write_json
from helpers.handmade import write_modules
from ingraft.layout import read_layout
from ingraft.output_files import OutputFiles, output_files


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text("{}")
    return root


def place(base: Path, adapter: Path, adapted: Mapping[str, str] | None = None, folder: str = "") -> OutputFiles:
    return output_files(read_layout(base), adapter, read_layout(adapter), adapted or {"": ""}, [adapter / folder])


def sources(files: OutputFiles, tmp_path: Path) -> dict[str, str]:
    return {file.path: str(file.source.relative_to(tmp_path)) for file in files.carried}


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
TRAINER = ("optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin", "rng_state_0.pth", "scaler.pt")


def test_plain_adapter_on_a_plain_base(tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "config.json", "model.safetensors", "tokenizer.json", "README.md", "own_code.py")
    adapter = touch(tmp_path / "adapter", *ADAPTER, *TRAINER, "README.md", "config.json", "notes.txt")

    files = place(base, adapter)

    assert sources(files, tmp_path) == {
        name: f"base/{name}" for name in ("config.json", "tokenizer.json", "README.md", "own_code.py")
    }
    assert files.layout.root == base
    assert [file.path for file in files.left_behind] == ["model.safetensors"]


def test_reasons_for_what_is_left_behind(tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "config.json", "model.safetensors", "onnx/config.json", "adapter_config.json")
    touch(base, "scheduler.pt", "ingraft.json", "2_Dense/config.json", "vocab.txt")
    write_modules(base, dense=True)
    adapter = touch(tmp_path / "adapter", *ADAPTER, "tokenizer.json")
    write_modules(adapter)

    assert {file.path: file.reason for file in place(base, adapter).left_behind} == {
        "model.safetensors": "holds the unmerged weights",
        "onnx/config.json": "holds the unmerged weights",
        "adapter_config.json": "belongs to an adapter, which would be applied again",
        "scheduler.pt": "a trainer's state",
        "ingraft.json": "speaks of the base's own files",
        "2_Dense/config.json": "its module is not in the merged model",
        "2_Dense/model.safetensors": "its module is not in the merged model",
        "modules.json": "the adapter's directory has its own",
        "vocab.txt": "the adapter's tokenizer has another vocabulary",
    }


def test_tokenizer_beside_a_plain_adapter(tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "0_T/config.json", "0_T/tokenizer.json")
    write_modules(base, transformer="0_T")
    adapter = touch(tmp_path / "adapter", "mine/adapter_config.json", "mine/tokenizer.json", "other/vocab.txt")

    files = place(base, adapter, {"0_T": "0_T"}, folder="mine")

    assert sources(files, tmp_path)["0_T/tokenizer.json"] == "adapter/mine/tokenizer.json"
    assert not any("other" in source for source in sources(files, tmp_path).values())


def test_trained_sentence_transformers_files_win(tmp_path: Path) -> None:
    names = ("tokenizer.json", "config_sentence_transformers.json", "sentence_bert_config.json", "README.md")
    base = touch(tmp_path / "base", "config.json", "model.safetensors", *names, "LICENSE")
    adapter = touch(tmp_path / "adapter", *ADAPTER, *names, *TRAINER, "config.json", "2_Dense/model.safetensors")
    write_modules(base, dense=True)
    write_modules(adapter, dense=True)

    found = sources(place(base, adapter), tmp_path)

    assert found == {
        **{name: f"adapter/{name}" for name in (*names, "modules.json", "1_Pooling/config.json")},
        **{f"2_Dense/{name}": f"adapter/2_Dense/{name}" for name in ("config.json", "model.safetensors")},
        "config.json": "base/config.json",
        "LICENSE": "base/LICENSE",
    }


def test_modules_that_training_added_or_dropped(tmp_path: Path) -> None:
    """modules.json is the trained one; a module's folder without an entry in it would be dead weight."""
    base = touch(tmp_path / "base", "config.json", "model.safetensors", "2_Dense/model.safetensors")
    adapter = touch(tmp_path / "adapter", *ADAPTER, "2_Normalize/config.json")
    write_modules(base, dense=True)
    write_modules(adapter)

    found = sources(place(base, adapter), tmp_path)

    assert "2_Dense/model.safetensors" not in found
    assert found["modules.json"] == "adapter/modules.json"


@pytest.mark.parametrize(
    ("ours", "theirs"), [("", "0_Transformer"), ("0_Transformer", ""), ("0_Transformer", "0_Transformer")]
)
def test_transformer_moves_to_the_trained_place(ours: str, theirs: str, tmp_path: Path) -> None:
    base = touch(tmp_path / "base", *(str(Path(ours) / name) for name in ("config.json", "tokenizer.json", "own.py")))
    adapter = touch(tmp_path / "adapter", *(str(Path(theirs) / name) for name in ADAPTER))
    write_modules(base, transformer=ours)
    write_modules(adapter, transformer=theirs)

    files = place(base, adapter, {ours: theirs}, folder=theirs)

    found = sources(files, tmp_path)
    for name in ("config.json", "tokenizer.json", "own.py"):
        assert found[str(Path(theirs) / name)] == str(Path("base") / ours / name)
    assert files.layout.transformer == theirs


STALE = (
    "pytorch_model.bin", "model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/model.onnx", "onnx/config.json", "openvino/model.xml",
    "openvino/openvino_model.bin", "model.gguf", "adapter_config.json", "adapter_model.bin", "ingraft.json",
    "model.sig", "optimizer.pt", ".git/config", ".cache/x", "__pycache__/x.pyc", "deep/.hidden",
)  # fmt: skip


@pytest.mark.parametrize("name", STALE)
def test_stale_files_of_the_base(name: str, tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "config.json", name)
    adapter = touch(tmp_path / "adapter", *ADAPTER)

    assert list(sources(place(base, adapter), tmp_path)) == ["config.json"]


def test_modules_weights_are_not_stale(tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "config.json", "2_Dense/pytorch_model.bin", "2_Dense/model.safetensors")
    write_modules(base, dense=True)

    found = sources(place(base, touch(tmp_path / "adapter", *ADAPTER)), tmp_path)

    assert {"2_Dense/pytorch_model.bin", "2_Dense/model.safetensors"} <= found.keys()


def test_other_adapters_and_checkpoints_stay_behind(tmp_path: Path) -> None:
    base = touch(tmp_path / "base", "config.json")
    write_modules(base)
    names = ("checkpoint-500/adapter_config.json", "checkpoint-500/README.md", "second/tokenizer.json", "runs/events")
    adapter = touch(tmp_path / "adapter", *ADAPTER, *names)
    write_modules(adapter)

    found = sources(place(base, adapter), tmp_path)

    assert not any(name in found for name in names)


def test_vocabulary_files_of_another_tokenizer_are_dropped(tmp_path: Path) -> None:
    """vocab.txt of the base beside a trained tokenizer.json with more tokens would contradict it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    touch(base, "config.json", "vocab.txt", "added_tokens.json")
    touch(adapter, *ADAPTER)
    write_json(base / "tokenizer.json", {"model": {"vocab": {"a": 0}}, "added_tokens": []})
    write_json(adapter / "tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": []})

    files = place(base, adapter)

    assert set(sources(files, tmp_path)) == {"config.json", "tokenizer.json"}
    assert {"vocab.txt", "added_tokens.json"} <= {file.path for file in files.left_behind}

    write_json(adapter / "tokenizer.json", {"model": {"vocab": {"a": 0}}, "added_tokens": []})
    assert {"vocab.txt", "added_tokens.json"} <= set(sources(place(base, adapter), tmp_path))


def test_files_below_folders_without_a_module_are_carried(tmp_path: Path) -> None:
    """Remote code may have packages of its own."""
    base = touch(tmp_path / "base", "config.json", "package/layers.py")

    assert "package/layers.py" in sources(place(base, touch(tmp_path / "adapter", *ADAPTER)), tmp_path)


@pytest.mark.parametrize("model", ["x", None, 3, ["a"], {}, {"vocab": None}])
def test_tokenizers_that_are_no_objects(model: object, tmp_path: Path) -> None:
    """They are carried as they are, and the base's vocabulary goes where the tokenizer is another one."""
    base = touch(tmp_path / "base", "config.json", "tokenizer.json", "vocab.txt")
    adapter = touch(tmp_path / "adapter", *ADAPTER)
    write_json(base / "tokenizer.json", {"model": model})
    write_json(adapter / "tokenizer.json", {"model": {"vocab": {"a": 0}}})

    found = sources(place(base, adapter), tmp_path)

    assert found["tokenizer.json"] == "adapter/tokenizer.json"
    assert "vocab.txt" not in found
