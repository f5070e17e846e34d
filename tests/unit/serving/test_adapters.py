"""Which servers take an adapter beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.files import edit_json
from helpers.handmade import bert_shapes, change_tensors, lora_tensors, write_adapter, write_base, write_modules
from ingraft.serving import examine

KEY = "base_model.model.encoder.layer.0.attention.self.query"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", write_base(tmp_path / "base"))


def verdicts(adapter: Path) -> dict[str, str]:
    found = examine(adapter, ["tei", "vllm", "infinity", "fastembed", "llama.cpp"])
    assert found.kind == "adapter"
    return {server.server.split()[0]: server.verdict for server in found.servers}


def reasons(adapter: Path, server: str) -> list[str]:
    return [finding.reason for finding in examine(adapter, [server]).servers[0].findings]


def test_plain_lora(adapter: Path) -> None:
    assert verdicts(adapter) == {
        "tei": "will not start",
        "vllm": "ready",
        "infinity": "will not start",
        "fastembed": "will not start",
        "llama.cpp": "ready",
    }
    assert examine(adapter).rewritable == ()


@pytest.mark.parametrize(
    ("changes", "vllm", "llama_cpp"),
    [
        ({"use_dora": True}, "use_dora", None),
        ({"lora_bias": True}, "lora_bias", None),
        ({"bias": "all"}, "bias is 'all'", None),
        ({"modules_to_save": ["dense", "classifier"]}, "modules_to_save has dense", None),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'", None),
        ({"r": 600}, "the rank is 600", None),
        ({"layer_replication": [[0, 1]]}, "layer_replication", None),
        ({"peft_type": "LOHA"}, "the method is LoHa", "the method is LoHa"),
    ],
)
def test_what_vllm_refuses(changes: dict[str, Any], vllm: str, llama_cpp: str | None, adapter: Path) -> None:
    edit_json(adapter / "adapter_config.json", **changes)

    found = examine(adapter, ["vllm", "llama.cpp"]).servers

    assert found[0].verdict == "will not start"
    assert vllm in found[0].findings[0].reason
    assert (found[1].verdict == "will not start") == (llama_cpp is not None)
    assert all(finding.fix == "Merge it." for finding in found[0].findings if finding.effect == "refuses")


@pytest.mark.parametrize(
    ("changes", "flag"), [({"r": 17}, 32), ({"rank_pattern": {"query": 100}}, 128), ({"r": 16}, None)]
)
def test_rank_that_needs_a_flag(changes: dict[str, Any], flag: int | None, adapter: Path) -> None:
    edit_json(adapter / "adapter_config.json", **changes)

    assert examine(adapter, ["vllm"]).servers[0].verdict == "ready"
    flags = [reason for reason in reasons(adapter, "vllm") if "--max-lora-rank" in reason]
    assert [reason.split("--max-lora-rank ")[1].split()[0] for reason in flags] == ([str(flag)] if flag else [])


@pytest.mark.parametrize("key", ["use_rslora", "alpha_pattern"])
def test_scale_that_llama_cpp_does_not_read(key: str, adapter: Path) -> None:
    edit_json(adapter / "adapter_config.json", **{key: True if key == "use_rslora" else {"query": 3}})

    assert verdicts(adapter)["llama.cpp"] == "loses something"
    assert verdicts(adapter)["vllm"] == "ready"


def test_tensor_that_is_no_lora(adapter: Path) -> None:
    change_tensors(adapter / "adapter_model.safetensors", {f"{KEY}.lora_magnitude_vector": torch.ones(16)})

    assert (verdicts(adapter)["vllm"], verdicts(adapter)["llama.cpp"]) == ("will not start",) * 2


def test_head_that_was_saved_whole(adapter: Path) -> None:
    """vLLM takes modules_to_save if they are a classification head."""
    change_tensors(adapter / "adapter_model.safetensors", {"base_model.model.classifier.weight": torch.ones(2, 16)})
    edit_json(adapter / "adapter_config.json", modules_to_save=["classifier"])

    assert (verdicts(adapter)["vllm"], verdicts(adapter)["llama.cpp"]) == ("ready", "will not start")


def test_dense_in_the_adapters_directory(adapter: Path) -> None:
    write_modules(adapter, dense=True)

    assert verdicts(adapter)["vllm"] == "loses something"


def test_release_of_sentence_transformers(adapter: Path) -> None:
    """It loads an adapter's directory, if it can read the files beside the adapter."""
    write_modules(adapter)
    older, newer = "sentence-transformers==3.4", "sentence-transformers"
    assert examine(adapter, [older]).servers[0].verdict == "ready"
    text = (adapter / "modules.json").read_text()
    newer_type = "sentence_transformers.base.modules.transformer.Transformer"
    (adapter / "modules.json").write_text(text.replace("sentence_transformers.models.Transformer", newer_type))

    found = examine(adapter, [older, newer]).servers

    assert [server.verdict for server in found] == ["will not start", "ready"]


def test_adapter_in_a_modules_folder(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    root = tmp_path / "adapter"
    tensors = lora_tensors(["encoder.layer.0.attention.self.query"], bert_shapes())
    write_adapter(root / "0_Transformer", base, tensors=tensors)
    write_modules(root, transformer="0_Transformer")

    assert examine(root, ["vllm"]).kind == "adapter"
