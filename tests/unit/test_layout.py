"""modules.json and its kin: where the transformer lies, and which class loads the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.files import write_json
from helpers.handmade import write_modules
from ingraft.errors import UnusableInput
from ingraft.layout import read_layout, read_transformer_config


def module(path: Any, kind: Any = "Pooling", **more: Any) -> dict[str, Any]:
    return {"name": "x", "path": path, "type": f"sentence_transformers.models.{kind}", **more}


def test_plain_directory(tmp_path: Path) -> None:
    layout = read_layout(tmp_path)

    assert (layout.modules, layout.transformer, layout.model_class) == ((), "", None)
    assert not layout.is_sentence_transformers
    assert layout.transformer_folder == tmp_path
    assert layout.transformers == ("",)


@pytest.mark.parametrize("transformer", ["", "0_Transformer"])
def test_sentence_transformers_directory(transformer: str, tmp_path: Path) -> None:
    write_modules(tmp_path, transformer=transformer, dense=True)

    layout = read_layout(tmp_path)

    assert layout.is_sentence_transformers
    assert [m.kind for m in layout.modules] == ["Transformer", "Pooling", "Dense"]
    assert layout.transformer_folder == tmp_path / transformer
    assert layout.paths == (*([transformer] if transformer else []), "1_Pooling", "2_Dense")
    assert layout.model_class == "SentenceTransformer"


def test_modules_are_in_the_order_of_idx(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("1_Pooling", idx=1), module("0_Transformer", "Transformer", idx=0)])

    assert [m.path for m in read_layout(tmp_path).modules] == ["0_Transformer", "1_Pooling"]


def test_module_type_of_the_current_release(tmp_path: Path) -> None:
    kind = "sentence_transformers.base.modules.transformer.Transformer"
    write_json(tmp_path / "modules.json", [{"idx": 0, "name": "0", "path": "a", "type": kind}])

    assert read_layout(tmp_path).transformer == "a"


def test_custom_module_with_a_config(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("a", "Pooling"), module("b", "custom_st.MyTransformer")])
    write_json(tmp_path / "b" / "config.json", {})

    assert read_layout(tmp_path).transformer == "b"


@pytest.mark.parametrize("path", ["../other", "/tmp", "a/../../b", "..", "..\\other"])
def test_module_that_leaves_the_directory(path: str, tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("", "Transformer"), module(path)])

    with pytest.raises(UnusableInput, match=r"modules\.json names .* outside"):
        read_layout(tmp_path)


@pytest.mark.parametrize("content", [{}, [], "x", [1], [[]], None])
def test_no_list_of_modules(content: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", content)

    with pytest.raises(UnusableInput, match="not a list of modules"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    "entry", [{}, {"path": "a"}, {"type": "x"}, {"path": 3, "type": "x"}, {"path": "a", "type": None}]
)
def test_module_without_path_or_type(entry: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("", "Transformer"), entry])

    with pytest.raises(UnusableInput, match="module 1 has no path or no type"):
        read_layout(tmp_path)


def test_router(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("", "Router")])
    types = {f"{side}_0_Transformer": "sentence_transformers.models.Transformer" for side in ("query", "document")}
    write_json(tmp_path / "router_config.json", {"types": types, "structure": {}})

    layout = read_layout(tmp_path)

    assert layout.transformers == ("query_0_Transformer", "document_0_Transformer")


@pytest.mark.parametrize("types", [None, [], {"a": 3}])
def test_router_without_types(types: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("r", "Router")])
    write_json(tmp_path / "r" / "router_config.json", {"types": types})

    with pytest.raises(UnusableInput, match="of what types"):
        read_layout(tmp_path)


def test_router_that_leaves_the_directory(tmp_path: Path) -> None:
    write_json(tmp_path / "modules.json", [module("r", "Router")])
    write_json(
        tmp_path / "r" / "router_config.json", {"types": {"../../x": "sentence_transformers.models.Transformer"}}
    )

    with pytest.raises(UnusableInput, match="outside"):
        read_layout(tmp_path)


@pytest.mark.parametrize(
    ("declared", "task", "expected"),
    [
        ({"model_type": "CrossEncoder"}, None, "CrossEncoder"),
        ({"model_type": "SparseEncoder"}, None, "SparseEncoder"),
        ({"model_type": "other"}, None, "SentenceTransformer"),
        ({}, "fill-mask", "SparseEncoder"),
        ({}, "sequence-classification", "CrossEncoder"),
        ({}, "retrieval", "MultiVectorEncoder"),
        ({}, "feature-extraction", "SentenceTransformer"),
        (None, None, "SentenceTransformer"),
    ],
)
def test_model_class(declared: Any, task: str | None, expected: str, tmp_path: Path) -> None:
    write_modules(tmp_path)
    if declared is None:
        (tmp_path / "config_sentence_transformers.json").unlink()
    else:
        write_json(tmp_path / "config_sentence_transformers.json", declared)
    write_json(tmp_path / "sentence_bert_config.json", {"transformer_task": task} if task else {})

    assert read_layout(tmp_path).model_class == expected


def test_older_names_of_the_transformer_config(tmp_path: Path) -> None:
    assert read_transformer_config(tmp_path) == {}
    write_json(tmp_path / "sentence_xlm-roberta_config.json", {"max_seq_length": 7})
    assert read_transformer_config(tmp_path) == {"max_seq_length": 7}
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 8})
    assert read_transformer_config(tmp_path) == {"max_seq_length": 8}
