"""A folder's weights: one file or shards under an index, and what is missing or unsound in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.files import edit_json, write_json
from helpers.handmade import bert_shapes, load_json, random_tensors, write_base, write_shards
from ingraft.checkpoint import find_weights, open_checkpoint
from ingraft.errors import UnusableInput

INDEX = "model.safetensors.index.json"


def test_one_file(tmp_path: Path) -> None:
    base = write_base(tmp_path)

    checkpoint = open_checkpoint(base)

    assert checkpoint.index_metadata is None
    assert [shard.path.name for shard in checkpoint.shards] == ["model.safetensors"]
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == bert_shapes()
    assert checkpoint.nbytes == 4 * checkpoint.elements
    assert checkpoint.dtype == "F32"
    assert not checkpoint.pickled
    assert dict(checkpoint.shards[0].metadata) == {"format": "pt"}


def test_shards(tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=3, dtype=torch.bfloat16)

    checkpoint = open_checkpoint(base)

    assert [shard.path.name for shard in checkpoint.shards] == [
        f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)
    ]
    assert set(checkpoint.tensors) == set(bert_shapes())
    assert checkpoint.index_metadata == {"total_size": checkpoint.nbytes}
    assert checkpoint.dtype == "BF16"


def test_pickled_shards(tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    for file in base.glob("*.safetensors"):
        torch.save(load_file(file), base / file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin"))
        file.unlink()
    index = load_json(base / INDEX)
    (base / INDEX).unlink()
    names = {
        k: v.replace("model", "pytorch_model").replace(".safetensors", ".bin") for k, v in index["weight_map"].items()
    }
    write_json(base / "pytorch_model.bin.index.json", {**index, "weight_map": names})

    checkpoint = open_checkpoint(base)

    assert checkpoint.pickled
    assert set(checkpoint.tensors) == set(bert_shapes())


def test_order_in_which_transformers_looks(tmp_path: Path) -> None:
    for name in ("pytorch_model.bin.index.json", "pytorch_model.bin", INDEX, "model.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path) == tmp_path / name


def test_dtype_is_that_of_most_elements(tmp_path: Path) -> None:
    save_file(
        {
            "ids": torch.zeros(500, dtype=torch.int64),
            "norm": torch.ones(10),
            "weight": torch.ones(90, dtype=torch.float16),
        },
        tmp_path / "model.safetensors",
    )

    assert open_checkpoint(tmp_path).dtype == "F16"


def test_dtype_of_a_model_of_many_masks(tmp_path: Path) -> None:
    save_file({"mask": torch.ones(50, 50, dtype=torch.bool), "weight": torch.ones(9)}, tmp_path / "model.safetensors")

    assert open_checkpoint(tmp_path).dtype == "F32"


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"holds no model.safetensors or pytorch_model.bin \(it holds: no files\)"):
        open_checkpoint(tmp_path)
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(UnusableInput, match=r"it holds: tf_model\.h5"):
        open_checkpoint(tmp_path)
    with pytest.raises(UnusableInput, match="is not a directory"):
        open_checkpoint(tmp_path / "none")


def test_shards_of_one_file_name_in_two_folders(tmp_path: Path) -> None:
    """The output has its shards side by side: one would overwrite the other."""
    for folder, tensor in (("a", "x"), ("b", "y")):
        (tmp_path / folder).mkdir()
        save_file({tensor: torch.ones(2)}, tmp_path / folder / "model.safetensors")
    write_json(tmp_path / INDEX, {"weight_map": {"x": "a/model.safetensors", "y": "b/model.safetensors"}})

    with pytest.raises(UnusableInput, match=r"two shards of the same file name: a/model\S+ and b/model"):
        open_checkpoint(tmp_path)


def test_missing_shard_is_named_with_the_nearest(tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    (base / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(UnusableInput, match=r"model-00002-of-00002.*does not exist.*nearest: model-00001-of-00002"):
        open_checkpoint(base)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "..\\secret.safetensors", ".."]
)
def test_index_that_leaves_the_folder(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=2)
    save_file({"pooler.dense.weight": torch.ones(2, 2)}, tmp_path / "secret.safetensors")
    index = load_json(base / INDEX)
    index["weight_map"]["pooler.dense.weight"] = name
    write_json(base / INDEX, index)

    with pytest.raises(UnusableInput, match="lies outside"):
        open_checkpoint(base)


@pytest.mark.parametrize("weight_map", [None, {}, [], "model.safetensors", 3])
def test_index_without_a_map(weight_map: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    edit_json(base / INDEX, weight_map=weight_map)

    with pytest.raises(UnusableInput, match="has no weight_map"):
        open_checkpoint(base)


@pytest.mark.parametrize("value", [3, None, ["a"], {}])
def test_index_that_maps_to_no_name(value: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    index = load_json(base / INDEX)
    index["weight_map"]["pooler.dense.weight"] = value
    write_json(base / INDEX, index)

    with pytest.raises(UnusableInput, match="no file name"):
        open_checkpoint(base)


@pytest.mark.parametrize("metadata", [None, [], "x", 3])
def test_index_metadata_may_be_anything(metadata: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    edit_json(base / INDEX, metadata=metadata)

    assert open_checkpoint(base).index_metadata == {}


def test_index_and_shards_disagree(tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    index = load_json(base / INDEX)
    first, second = sorted(set(index["weight_map"].values()))

    moved = {name: first if file == second else file for name, file in index["weight_map"].items()}
    write_json(base / INDEX, {**index, "weight_map": {**moved, "pooler.dense.bias": second}})
    with pytest.raises(UnusableInput, match="does not hold it"):
        open_checkpoint(base)

    lacking = {name: file for name, file in index["weight_map"].items() if name != "pooler.dense.bias"}
    write_json(base / INDEX, {**index, "weight_map": lacking})
    with pytest.raises(UnusableInput, match=r"does not list pooler\.dense\.bias"):
        open_checkpoint(base)

    write_json(base / INDEX, {**index, "weight_map": {**index["weight_map"], "more.weight": first}})
    with pytest.raises(UnusableInput, match=r"says that more\.weight is in"):
        open_checkpoint(base)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    tensors = random_tensors(bert_shapes())
    write_shards(tmp_path, tensors, 2)
    file = tmp_path / "model-00002-of-00002.safetensors"
    save_file({**load_file(file), **{name: tensors[name] for name in sorted(tensors)[::2][:1]}}, file)

    with pytest.raises(UnusableInput, match="stands in two shards"):
        open_checkpoint(tmp_path)


def test_truncated_shard(tmp_path: Path) -> None:
    base = write_base(tmp_path, shards=2)
    file = base / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-4])

    with pytest.raises(UnusableInput, match=r"model-00001-of-00002.safetensors is cut off"):
        open_checkpoint(base)
