"""The base that an adapter belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.files import write_json
from helpers.handmade import write_adapter, write_base, write_modules
from ingraft.adapter import open_adapter
from ingraft.base_model import open_base, quantisation_of
from ingraft.errors import UnusableInput


def test_base_that_the_adapter_names(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    model = open_base(adapter, None)

    assert model.name == str(base)
    assert model.layout.root == base
    assert model.config["model_type"] == "bert"
    assert model.checkpoint.folder == base


def test_base_that_the_user_names(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", sentence_transformers=True)
    adapter = open_adapter(write_adapter(tmp_path / "adapter", "/home/somebody/else"))

    assert open_base(adapter, base).layout.model_class == "SentenceTransformer"


def test_no_base_is_named(tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path / "adapter", None))

    with pytest.raises(UnusableInput, match=r"names no base model\. Pass it with --base"):
        open_base(adapter, None)


def test_base_of_another_machine(tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path / "adapter", "/home/somebody/models/base"))

    with pytest.raises(UnusableInput, match=r"/home/somebody/models/base does not exist.*--base"):
        open_base(adapter, None)


def test_user_named_base_is_not_blamed_on_the_adapter(tmp_path: Path) -> None:
    adapter = open_adapter(write_adapter(tmp_path / "adapter", "base"))

    with pytest.raises(UnusableInput) as refused:
        open_base(adapter, tmp_path / "none")

    assert "names it" not in str(refused.value)


def test_transformer_in_a_module_folder(tmp_path: Path) -> None:
    write_base(tmp_path / "base" / "0_Transformer")
    write_modules(tmp_path / "base", transformer="0_Transformer")
    adapter = open_adapter(write_adapter(tmp_path / "adapter", tmp_path / "base"))

    assert open_base(adapter, None).checkpoint.folder == tmp_path / "base" / "0_Transformer"
    # Sentence Transformers records the module's folder as the base of an adapter
    around = open_base(adapter, tmp_path / "base" / "0_Transformer")
    assert around.layout.root == tmp_path / "base"
    assert around.layout.transformer == "0_Transformer"


def test_folder_beside_modules_that_is_none_of_them(tmp_path: Path) -> None:
    write_base(tmp_path / "base" / "0_Transformer")
    write_modules(tmp_path / "base", transformer="0_Transformer")
    other = write_base(tmp_path / "base" / "other")
    adapter = open_adapter(write_adapter(tmp_path / "adapter", other))

    assert open_base(adapter, None).layout.root == other


def test_base_that_is_an_adapter(tmp_path: Path) -> None:
    base = write_adapter(tmp_path / "base", "x")
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    with pytest.raises(UnusableInput, match="is itself an adapter"):
        open_base(adapter, None)


def test_base_without_config(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "config.json").unlink()
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    with pytest.raises(UnusableInput, match=r"has no config\.json"):
        open_base(adapter, None)


def test_router_needs_to_know_which_transformer(tmp_path: Path) -> None:
    sides = [f"{side}_0_Transformer" for side in ("query", "document")]
    for side in sides:
        write_base(tmp_path / "base" / side)
    write_json(tmp_path / "base" / "modules.json", [{"path": "", "type": "sentence_transformers.models.Router"}])
    types = dict.fromkeys(sides, "sentence_transformers.models.Transformer")
    write_json(tmp_path / "base" / "router_config.json", {"types": types})

    write_adapter(tmp_path / "adapter" / sides[1], tmp_path / "base")
    assert open_base(open_adapter(tmp_path / "adapter"), None).layout.transformer == sides[1]

    plain = open_adapter(write_adapter(tmp_path / "plain", tmp_path / "base"))
    with pytest.raises(UnusableInput, match="routes between query_0_Transformer, document_0_Transformer"):
        open_base(plain, None)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, None),
        ("x", None),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes (4-bit)"),
        ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "bitsandbytes (8-bit)"),
        ({}, "an unknown method"),
    ],
)
def test_quantisation(config: Any, expected: str | None, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={"quantization_config": config} if config is not None else {})
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    assert quantisation_of(open_base(adapter, None)) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model_type", {"a": None}, "a name"),
        ("model_type", 3, "a name"),
        ("architectures", {"": "x"}, "a list of class names"),
        ("architectures", "BertModel", "a list of class names"),
        ("architectures", [None], "a list of class names"),
    ],
)
def test_class_that_is_no_name(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={key: value})
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    with pytest.raises(UnusableInput, match=f"config.json: {key} is .*, expected {expected}"):
        open_base(adapter, None)


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"n_layers": 1001},
        {"num_local_experts": 10**400},
        {"text_config": {"num_hidden_layers": 10**9}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_layers_that_take_for_ever_to_build(config: Any, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config=config)
    adapter = open_adapter(write_adapter(tmp_path / "adapter", base))

    with pytest.raises(
        UnusableInput, match=r"config.json: .*(layers|experts) is 10.*, and its checkpoint has 39 tensors"
    ):
        open_base(adapter, None)


def test_layers_may_share_their_tensors(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", config={"num_hidden_layers": 48, "layer_norm_eps": 1e-5})

    assert open_base(open_adapter(write_adapter(tmp_path / "adapter", base)), None).config["num_hidden_layers"] == 48
