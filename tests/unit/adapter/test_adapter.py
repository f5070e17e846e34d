"""Where an adapter lies in a directory, and what its config and its file must have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.files import edit_json, write_json
from helpers.handmade import attention_modules, write_adapter, write_base, write_modules
from ingraft.adapter import open_adapter, open_adapters
from ingraft.errors import UnusableInput


def test_adapter_at_the_root(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", "org/base", revision="abc", modules_to_save=["classifier"])

    adapter = open_adapter(folder)

    assert (adapter.root, adapter.folder) == (folder, folder)
    assert adapter.config.peft_type == "LORA"
    assert (adapter.config.base_model, adapter.config.revision) == ("org/base", "abc")
    assert adapter.config.task_type == "FEATURE_EXTRACTION"
    assert adapter.config.modules_to_save == ("classifier",)
    assert adapter.config.raw["r"] == 4
    assert len(adapter.tensors) == 2 * len(attention_modules())
    assert adapter.nbytes == sum(4 * info.elements for info in adapter.tensors.values())
    assert open_adapters(folder) == (adapter,)


@pytest.mark.parametrize("place", ["0_Transformer", "default", "checkpoint-500"])
def test_adapter_in_a_sub_folder(place: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter" / place, "base")
    if place == "0_Transformer":
        write_modules(tmp_path / "adapter", transformer=place)

    adapter = open_adapter(tmp_path / "adapter")

    assert adapter.root == tmp_path / "adapter"
    assert adapter.folder == tmp_path / "adapter" / place


def test_a_checkpoint_is_a_model_directory_of_its_own(tmp_path: Path) -> None:
    """Its pooling, Dense modules and prompts count, whether the run or the checkpoint is named."""
    checkpoint = write_adapter(tmp_path / "run" / "checkpoint-500", "base")
    write_modules(checkpoint)

    assert open_adapter(tmp_path / "run") == open_adapter(checkpoint)
    assert open_adapters(tmp_path / "run") == open_adapters(checkpoint)


def test_root_goes_before_sub_folders(tmp_path: Path) -> None:
    write_adapter(tmp_path, "base")
    write_adapter(tmp_path / "checkpoint-500", "base")

    assert open_adapter(tmp_path).folder == tmp_path


def test_several_adapters_must_be_named(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_adapter(tmp_path / name, "base")

    with pytest.raises(UnusableInput, match=r"holds 2 adapters: first, second\. Name the one you mean.*second"):
        open_adapter(tmp_path)


def test_of_many_adapters_the_last_ones_are_named(tmp_path: Path) -> None:
    """By the numbers of their steps."""
    for step in range(100, 1300, 100):
        write_adapter(tmp_path / f"checkpoint-{step}", "base")

    with pytest.raises(UnusableInput, match=r"12 adapters: checkpoint-800, .*, checkpoint-1200 and 7 more") as refused:
        open_adapter(tmp_path)

    assert refused.value.hint == f"Name the one you mean, for example: {tmp_path / 'checkpoint-1200'}"


def test_hidden_folders_hold_no_adapters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "first", "base")
    write_adapter(tmp_path / ".cache", "base")

    assert open_adapter(tmp_path).folder == tmp_path / "first"


def test_safetensors_go_before_pickled(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    (folder / "adapter_model.bin").write_bytes(b"not read")

    assert open_adapter(folder).weights.name == "adapter_model.safetensors"


def test_pickled_adapter(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    expected = open_adapter(folder)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()

    adapter = open_adapter(folder)

    assert {name: info.shape for name, info in adapter.tensors.items()} == {
        name: info.shape for name, info in expected.tensors.items()
    }


def test_full_model_is_no_adapter(tmp_path: Path) -> None:
    write_base(tmp_path)

    with pytest.raises(UnusableInput, match=r"is a full model, not an adapter: it has model\.safetensors"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("transformer", ["", "0_Transformer"])
def test_full_sentence_transformers_model_is_no_adapter(transformer: str, tmp_path: Path) -> None:
    write_base(tmp_path / transformer)
    write_modules(tmp_path, transformer=transformer)

    with pytest.raises(UnusableInput, match="full model, not an adapter"):
        open_adapter(tmp_path)


def test_directory_without_adapter(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"has no adapter_config\.json"):
        open_adapter(tmp_path)


def test_config_without_weights(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    (folder / "adapter_model.safetensors").unlink()

    with pytest.raises(UnusableInput, match=r"no weights: expected adapter_model\.safetensors\. Save"):
        open_adapter(folder)


def test_file_without_tensors(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    save_file({}, folder / "adapter_model.safetensors")

    with pytest.raises(UnusableInput, match="holds no tensor"):
        open_adapter(folder)


@pytest.mark.parametrize("value", [None, 3, ["LORA"], {}])
def test_config_without_peft_type(value: Any, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    edit_json(folder / "adapter_config.json", peft_type=value)

    with pytest.raises(UnusableInput, match="names no peft_type"):
        open_adapter(folder)


@pytest.mark.parametrize("value", ["classifier", [1], {"a": 1}])
def test_odd_modules_to_save(value: Any, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base", modules_to_save=value)

    with pytest.raises(UnusableInput, match="expected a list of module names"):
        open_adapter(folder)


@pytest.mark.parametrize("value", [3, [], "", None])
def test_odd_base_is_none(value: Any, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    config = {"peft_type": "LORA", "base_model_name_or_path": value, "revision": value}
    write_json(folder / "adapter_config.json", config)

    config = open_adapter(folder).config

    assert (config.base_model, config.revision) == (None, None)


def test_config_that_is_no_object(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, "base")
    write_json(folder / "adapter_config.json", ["LORA"])

    with pytest.raises(UnusableInput, match="expected an object"):
        open_adapter(folder)


def test_router_has_an_adapter_per_transformer(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [{"name": "0", "path": "", "type": "sentence_transformers.models.Router"}])
    sides = [f"{side}_0_Transformer" for side in ("query", "document")]
    types = dict.fromkeys(sides, "sentence_transformers.models.Transformer")
    write_json(tmp_path / "router_config.json", {"types": types})
    for side in sides:
        write_adapter(tmp_path / side, "base")

    adapters = open_adapters(tmp_path)

    assert [adapter.folder.name for adapter in adapters] == sides
    assert {adapter.root for adapter in adapters} == {tmp_path}
