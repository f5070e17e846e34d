"""Merges of real models: the weights are exact, the rest of the model is whole, and it loads without peft."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import handmade, models
from helpers.files import edit_json, raw_tensors, snapshot, stored_tensors, write_json
from helpers.merging import check_exact, check_structure, check_untouched, cli, merged, merged_once, weights
from helpers.models import (
    ARCHITECTURES,
    TEXTS,
    copy_of,
    embed_adapted,
    exact_parameters,
    lora_config,
    moved_into_module_folder,
    new_dense,
    new_folder,
    plain_adapter,
    plain_base,
    sentence_adapter,
    sentence_base,
    trainer_checkpoint,
)

DTYPES = ("float32", "bfloat16", "float16")


def adapter_of(architecture: str, dtype: str = "float32", shards: int = 1) -> tuple[Path, Path]:
    """A Sentence Transformers base and an adapter on all its linear layers."""
    key = (architecture, dtype, shards)
    if key not in _adapters:
        base = sentence_base(architecture, dtype, shards)
        _adapters[key] = base, sentence_adapter(base, lora_config(architecture))
    return _adapters[key]


_adapters: dict[tuple[str, str, int], tuple[Path, Path]] = {}


# Weights


@pytest.mark.parametrize("shards", [1, 3], ids=["one file", "shards"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_are_exact(architecture: str, dtype: str, shards: int) -> None:
    base, adapter = adapter_of(architecture, dtype, shards)
    before = snapshot(base), snapshot(adapter)
    output = merged_once(adapter)

    truth = exact_parameters(base, adapter)
    assert len(truth.changed) >= 8
    check_structure(base, output)
    check_untouched(base, output, truth)
    check_exact(output, truth)
    assert (snapshot(base), snapshot(adapter)) == before


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "qwen3"])
def test_weights_are_those_of_pefts_merge(architecture: str, dtype: str) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    base, adapter = adapter_of(architecture, dtype)
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).merge_and_unload().state_dict()
    ours = weights(merged_once(adapter))

    assert ours.keys() == theirs.keys()
    if dtype == "float32":
        torch.testing.assert_close(ours, dict(theirs), rtol=1e-5, atol=1e-6)
    else:
        equal = torch.cat([(ours[name] == theirs[name]).flatten() for name in ours])
        assert float(equal.double().mean()) >= 0.9999


BERT_VARIANTS: dict[str, dict[str, Any]] = {
    "rank-stabilised": {"use_rslora": True, "r": 16},
    "rank pattern": {"rank_pattern": {"query": 3, r"layer\.1\..*value": 5}},
    "alpha pattern": {"alpha_pattern": {"key": 3, "layer.0.output.dense": 40}, "lora_alpha": 5},
    "both patterns, rank-stabilised": {"rank_pattern": {"query": 4}, "alpha_pattern": {"query": 3}, "use_rslora": True},
    "pattern that fits the middle of a name only": {"rank_pattern": {"quer": 3}},
    "rank above the width": {"r": 80, "target_modules": ["query"]},
    "rank one": {"r": 1, "lora_alpha": 1},
    "LoRA bias": {"lora_bias": True},
    "LoRA bias, rank-stabilised": {"lora_bias": True, "use_rslora": True, "target_modules": ["query"]},
    "biases of all layers": {"bias": "all", "target_modules": ["query", "value"]},
    "biases of adapted layers": {"bias": "lora_only", "target_modules": ["query", "value"]},
    "module saved whole": {"modules_to_save": ["pooler"], "target_modules": ["query"]},
    "norms saved whole": {"modules_to_save": ["LayerNorm"], "target_modules": ["query"]},
    "biases of all layers, module saved whole": {
        "bias": "all",
        "modules_to_save": ["pooler"],
        "target_modules": ["query"],
    },
    "one layer": {"target_modules": ["query"], "layers_to_transform": [1], "layers_pattern": "layer"},
    "targets by a pattern": {"target_modules": r".*\.(query|output\.dense)"},
    "all linear layers": {"target_modules": "all-linear"},
    "module left out": {"target_modules": ["dense"], "exclude_modules": ["pooler.dense"]},
    "alpha that is no integer": {"lora_alpha": 2.5},
}


@pytest.mark.parametrize("variant", BERT_VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_variants_of_lora(variant: str, dtype: str) -> None:
    base = plain_base("bert", dtype)
    adapter = plain_adapter(base, lora_config("bert", **BERT_VARIANTS[variant]))

    output = merged(adapter)

    truth = exact_parameters(base, adapter)
    check_structure(base, output)
    check_untouched(base, output, truth)
    check_exact(output, truth)


@pytest.mark.parametrize(
    "variant", [{"bias": "all"}, {"lora_bias": True}, {"modules_to_save": ["ln_f", "mlp"]}], ids=str
)
def test_variants_of_lora_on_conv1d(variant: dict[str, Any]) -> None:
    base = plain_base("gpt2")
    adapter = plain_adapter(base, lora_config("gpt2", target_modules=["c_attn"], **variant))

    output = merged(adapter)

    truth = exact_parameters(base, adapter)
    check_untouched(base, output, truth)
    check_exact(output, truth)


def test_conv1d_is_known_whatever_the_config_says() -> None:
    """GPT-2's square attn.c_proj cannot be told by its shape, and `fan_in_fan_out` is often set wrongly."""
    base = plain_base("gpt2")
    adapter = copy_of(plain_adapter(base, lora_config("gpt2", target_modules=["attn.c_proj"])))
    truth = exact_parameters(base, adapter)
    edit_json(adapter / "adapter_config.json", fan_in_fan_out=False)

    check_exact(merged(adapter), truth)


@pytest.mark.parametrize("target", ["word_embeddings", "position_embeddings"])
def test_embeddings(target: str) -> None:
    base = plain_base("bert")
    adapter = plain_adapter(base, lora_config("bert", target_modules=["query", target]))

    output = merged(adapter)

    truth = exact_parameters(base, adapter)
    assert f"embeddings.{target}.weight" in truth.changed
    check_untouched(base, output, truth)
    check_exact(output, truth)


@pytest.mark.parametrize("adapter_dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_adapter_in_another_dtype(adapter_dtype: torch.dtype) -> None:
    """The numbers in the file are what counts; PEFT widens them as we do."""
    base = plain_base("bert")
    adapter = copy_of(plain_adapter(base, lora_config("bert")))
    file = adapter / "adapter_model.safetensors"
    save_file({name: value.to(adapter_dtype) for name, value in load_file(file).items()}, file, {"format": "pt"})

    check_exact(merged(adapter), exact_parameters(base, adapter))


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_blocks_do_not_matter(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices that are cut into many blocks, also in the middle of a thread's work, come out the same."""
    from ingraft.execute import block, inputs

    base, adapter = adapter_of(architecture, "bfloat16")
    for module in (block, inputs):
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 1000)

    output = merged(adapter, "--workers", "3")

    check_exact(output, exact_parameters(base, adapter))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_matrices(dtype: str) -> None:
    """More than one block of the real size, and not a whole number of them."""
    base = new_folder("large")
    generator = torch.Generator().manual_seed(0)
    shapes = {"layers.0.up.weight": (3001, 700), "layers.0.down.weight": (700, 3001), "norm.weight": (700,)}
    tensors = {name: torch.randn(shape, generator=generator) / 26 for name, shape in shapes.items()}
    save_file(
        {k: v.to(getattr(torch, dtype)) for k, v in tensors.items()}, base / "model.safetensors", {"format": "pt"}
    )
    write_json(base / "config.json", {"model_type": "mistral", "architectures": ["MistralModel"]})
    adapter = new_folder("large-adapter")
    lora = {}
    for name in ("up", "down"):
        rows, columns = shapes[f"layers.0.{name}.weight"]
        lora[f"base_model.model.layers.0.{name}.lora_A.weight"] = torch.randn(16, columns, generator=generator) / 26
        lora[f"base_model.model.layers.0.{name}.lora_B.weight"] = torch.randn(rows, 16, generator=generator) / 30
    save_file(lora, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": ["up", "down"]}
    write_json(adapter / "adapter_config.json", {**config, "base_model_name_or_path": str(base)})

    output = merged(adapter)

    before = load_file(base / "model.safetensors")
    exact = {}
    for name in ("layers.0.up", "layers.0.down"):
        a, b = (lora[f"base_model.model.{name}.lora_{side}.weight"].double() for side in "AB")
        exact[f"{name}.weight"] = before[f"{name}.weight"].double() + b @ a
    check_exact(output, models.Adapted(exact, frozenset(exact)))


def test_without_linux_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft import reading

    _, adapter = adapter_of("bert", "bfloat16", 3)
    usual = merged_once(adapter)
    monkeypatch.setattr(reading, "PORTABLE", True)
    monkeypatch.setattr(reading, "MAPPED", False)

    portable = merged(adapter)

    assert stored_tensors(portable) == stored_tensors(usual)
    assert hashes_of(portable) == hashes_of(usual)


def test_without_compiled_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft import hashes
    from ingraft.kernels import bfloat16, in_numpy

    _, adapter = adapter_of("qwen3", "bfloat16", 3)
    usual = merged_once(adapter)
    monkeypatch.setattr(bfloat16, "chosen", in_numpy)
    monkeypatch.setattr(bfloat16, "COMPILED", False)
    monkeypatch.setattr(hashes, "TWO_AT_ONCE", False)

    slow, unproven = merged(adapter), merged(adapter, "--no-verify")

    assert stored_tensors(slow) == stored_tensors(usual) == stored_tensors(unproven)
    assert hashes_of(slow) == hashes_of(usual)


def hashes_of(output: Path) -> dict[str, str]:
    """Of files of weights, as the manifest has them."""
    files = json.loads((output / "ingraft.json").read_text(encoding="utf-8"))["files"]
    return {name: sha256 for name, sha256 in files.items() if name.endswith(".safetensors")}


def test_number_of_threads_does_not_matter() -> None:
    _, adapter = adapter_of("qwen3", "bfloat16")

    first, second = merged(adapter, "--workers", "1"), merged(adapter, "--workers", "7")

    assert stored_tensors(first) == stored_tensors(second)
    assert torch.get_num_threads() == 1


# Names


def test_head_in_the_base_only() -> None:
    """bert.encoder… and cls… on disk, an adapter for the headless model: cls passes through byte for byte."""
    base = plain_base("bert", head="AutoModelForMaskedLM")
    adapter = plain_adapter(base, lora_config("bert", target_modules=["query", "value"]))

    output = merged(adapter)

    before, after = stored_tensors(base), stored_tensors(output)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        f"bert.encoder.layer.{n}.attention.self.{name}.weight" for n in (0, 1) for name in ("query", "value")
    }
    assert any(name.startswith("cls.") for name in before)
    truth = exact_parameters(base, adapter)
    exact = {f"bert.{name}": truth.parameters[name] for name in truth.changed if f"bert.{name}" in before}
    assert exact.keys() == changed
    check_exact(output, models.Adapted(exact, frozenset(exact)))


def test_head_in_the_adapter_only() -> None:
    """Trained as a causal model, merged into the headless checkpoint."""
    base = plain_base("qwen3")
    adapter = plain_adapter(base, lora_config("qwen3", task_type="CAUSAL_LM"), head="AutoModelForCausalLM")
    keys = load_file(adapter / "adapter_model.safetensors")
    assert all(key.startswith("base_model.model.model.layers.") for key in keys)

    output = merged(adapter)

    truth = exact_parameters(base, adapter, head="AutoModelForCausalLM")
    exact = {name.removeprefix("model."): truth.parameters[name] for name in truth.changed if "layers" in name}
    assert exact.keys() <= weights(base).keys()
    check_untouched(base, output, models.Adapted(exact, frozenset(exact)))
    check_exact(output, models.Adapted(exact, frozenset(exact)))


def test_new_head_is_added() -> None:
    """A classifier that was trained with the adapter is not in the base and must not be lost."""
    base = plain_base("bert")
    config = lora_config("bert", target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"])
    adapter = plain_adapter(base, config, head="AutoModelForSequenceClassification")
    trained = load_file(adapter / "adapter_model.safetensors")

    found = weights(merged(adapter))

    assert torch.equal(found["classifier.weight"], trained["base_model.model.classifier.weight"])
    assert torch.equal(found["classifier.bias"], trained["base_model.model.classifier.bias"])
    assert found.keys() == {*weights(base), "classifier.weight", "classifier.bias"}


def test_compiled_model_was_trained() -> None:
    base = plain_base("bert")
    adapter = copy_of(plain_adapter(base, lora_config("bert")))
    usual = merged(adapter)
    file = adapter / "adapter_model.safetensors"
    tensors = {k.replace("base_model.model.", "base_model.model._orig_mod."): v for k, v in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})

    output = new_folder("out") / "out"
    run = cli("merge", adapter, output)

    assert run.code == 0
    assert "_orig_mod" in run.out
    assert stored_tensors(output) == stored_tensors(usual)


def test_legacy_names_stay() -> None:
    base = copy_of(plain_base("bert"))
    file = base / "model.safetensors"
    legacy = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    config = lora_config("bert", target_modules=["query"], modules_to_save=["LayerNorm"])
    adapter = copy_of(plain_adapter(base, config))
    save_file(legacy, file, {"format": "pt"})

    found = weights(merged(adapter))

    assert found.keys() == legacy.keys()
    trained = load_file(adapter / "adapter_model.safetensors")
    name = "encoder.layer.1.output.LayerNorm"
    assert torch.equal(found[f"{name}.gamma"], trained[f"base_model.model.{name}.weight"])
    assert not torch.equal(found[f"{name}.gamma"], legacy[f"{name}.gamma"])


# Dtypes


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("asked", DTYPES)
def test_dtype_of_the_output(stored: str, asked: str) -> None:
    names = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
    base, adapter = adapter_of("bert", stored)

    output = merged(adapter, "--dtype", asked, "--layout", "keep")

    check_structure(base, output, dtype=lambda dtype: names[asked])
    truth, before, after = exact_parameters(base, adapter), weights(base), weights(output)
    check_exact(output, truth)
    for name in after.keys() - truth.changed:
        assert torch.equal(after[name], before[name].to(getattr(torch, asked)))
    config = json.loads((output / "config.json").read_text())
    expected = json.loads((base / "config.json").read_text())
    assert config == {**expected, "dtype": asked}


def test_integers_keep_their_dtype() -> None:
    base = copy_of(plain_base("bert"))
    file = base / "model.safetensors"
    ids = torch.arange(66).unsqueeze(0)
    save_file({**load_file(file), "embeddings.position_ids": ids}, file, {"format": "pt"})
    adapter = plain_adapter(base, lora_config("bert"))

    for options in ([], ["--dtype", "bfloat16"]):
        assert torch.equal(weights(merged(adapter, *options))["embeddings.position_ids"], ids)


# The rest of the model


def files_besides_weights(folder: Path) -> dict[str, str]:
    return {
        name: content
        for name, content in snapshot(folder).items()
        if content != "directory" and name not in ("ingraft.json", "README.md") and not name.startswith("model")
    }


def test_plain_adapter_over_a_sentence_transformers_base() -> None:
    """Pooling, Dense, Normalize, prompts and tokenizer are the base's."""
    base = sentence_base("bert", dense=True)
    adapter = plain_adapter(base, lora_config("bert"))
    assert not (adapter / "modules.json").exists()

    output = merged(adapter, "--layout", "keep")

    assert files_besides_weights(output) == files_besides_weights(base)
    assert "2_Dense/model.safetensors" in files_besides_weights(output)
    check_exact(output, exact_parameters(base, adapter))


def test_what_was_trained_wins() -> None:
    """Dense weights, pooling, prompts and length out of the adapter's directory, not the base's."""
    base = sentence_base("bert", dense=True)
    adapter = copy_of(sentence_adapter(base, lora_config("bert"), train_dense=True))
    edit_json(adapter / "1_Pooling" / "config.json", pooling_mode="cls")
    edit_json(adapter / "config_sentence_transformers.json", prompts={"query": "trained "})
    edit_json(adapter / "sentence_bert_config.json", max_seq_length=17)

    output = merged(adapter, "--layout", "keep")

    for name in ("1_Pooling/config.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        assert (output / name).read_bytes() == (adapter / name).read_bytes()
    dense = load_file(output / "2_Dense" / "model.safetensors")
    assert torch.equal(dense["linear.weight"], new_dense(99).state_dict()["linear.weight"])
    # The card is extended, in its metadata and at its end.
    own = (adapter / "README.md").read_text().split("---\n", 2)[2].strip()
    assert own in (output / "README.md").read_text()
    assert (output / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_tokenizer_of_a_plain_adapter_wins() -> None:
    base = sentence_base("bert")
    adapter = copy_of(plain_adapter(base, lora_config("bert")))
    models.tokenizer().save_pretrained(adapter)
    edit_json(adapter / "tokenizer_config.json", model_max_length=11)

    output = merged(adapter)

    assert json.loads((output / "tokenizer_config.json").read_text())["model_max_length"] == 11


def test_adapter_with_a_name() -> None:
    base = sentence_base("bert")
    adapter = plain_adapter(base, lora_config("bert"), name="medical")
    assert [path.name for path in adapter.iterdir() if path.is_dir()] == ["medical"]

    output = merged(adapter, "--layout", "keep")

    check_exact(output, exact_parameters(base, adapter / "medical"))
    assert stored_tensors(output) == stored_tensors(merged(adapter / "medical"))
    assert files_besides_weights(output) == files_besides_weights(base)


@pytest.mark.parametrize("moved", ["base", "adapter", "both"])
def test_transformer_in_a_folder_of_its_own(moved: str) -> None:
    """The merged model is laid out as what was trained."""
    base, adapter = adapter_of("bert")
    truth = exact_parameters(base, adapter)
    if moved != "base":
        adapter = moved_into_module_folder(adapter)
    if moved != "adapter":
        base = moved_into_module_folder(base)

    output = merged(adapter, "--base", base)

    folder = output / ("0_Transformer" if moved != "base" else "")
    check_exact(folder, truth)
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
    assert [path.relative_to(output).parent for path in output.rglob("model.safetensors")] == [
        folder.relative_to(output)
    ]
    assert json.loads((output / "modules.json").read_text())[0]["path"] == folder.relative_to(output).name


@pytest.mark.parametrize("kind", ["plain", "sentence"])
def test_checkpoint_of_a_trainer(kind: str) -> None:
    base = sentence_base("bert")
    adapter = {"plain": plain_adapter, "sentence": sentence_adapter}[kind](base, lora_config("bert"))
    checkpoint = trainer_checkpoint(adapter)

    output = merged(checkpoint)

    assert stored_tensors(output) == stored_tensors(merged(adapter))
    assert files_besides_weights(output) == files_besides_weights(merged(adapter))
    run = checkpoint.parent
    assert stored_tensors(merged(run)) == stored_tensors(output)


def test_plain_base_and_plain_adapter() -> None:
    base = plain_base("mpnet")
    adapter = plain_adapter(base, lora_config("mpnet"))

    output = merged(adapter, "--layout", "keep")

    assert files_besides_weights(output) == files_besides_weights(base)
    check_exact(output, exact_parameters(base, adapter))


@pytest.mark.parametrize("shards", [1, 2])
def test_pickled_base_and_adapter(shards: int) -> None:
    """Out comes safetensors, whatever went in."""
    base, adapter = adapter_of("bert")
    usual = merged_once(adapter)
    base, adapter = copy_of(sentence_base("bert", "float32", shards)), copy_of(adapter)
    for file in base.glob("model*.safetensors"):
        torch.save(load_file(file), base / f"pytorch_{file.stem}.bin")
        file.unlink()
    if shards > 1:
        index = json.loads((base / "model.safetensors.index.json").read_text())
        (base / "model.safetensors.index.json").unlink()
        names = {k: f"pytorch_{Path(v).stem}.bin" for k, v in index["weight_map"].items()}
        write_json(base / "pytorch_model.bin.index.json", {**index, "weight_map": names})
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()

    output = merged(adapter, "--base", base)

    assert list(output.rglob("*.bin")) == []
    assert stored_tensors(output) == stored_tensors(usual)
    assert len(list(output.glob("model*.safetensors"))) == shards
    assert (output / "model.safetensors.index.json").exists() == (shards > 1)


def test_linked_files_as_in_the_hubs_cache(tmp_path: Path) -> None:
    """Every file of a snapshot is a link into a folder of blobs; the output holds files."""
    base, adapter = adapter_of("bert")
    usual = merged_once(adapter)
    for folder in (base, adapter):
        snapshot_folder = tmp_path / "snapshots" / folder.name
        for number, file in enumerate(path for path in folder.rglob("*") if path.is_file()):
            blob, link = tmp_path / "blobs" / f"{folder.name}-{number}", snapshot_folder / file.relative_to(folder)
            for path in (blob, link):
                path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blob)
            link.symlink_to(blob)

    output = merged(tmp_path / "snapshots" / adapter.name, "--base", tmp_path / "snapshots" / base.name)

    assert not any(path.is_symlink() for path in output.rglob("*"))
    assert stored_tensors(output) == stored_tensors(usual)
    assert files_besides_weights(output) == files_besides_weights(usual)


def test_two_transformers_behind_a_router(tmp_path: Path) -> None:
    """The same names in two folders, an adapter for each of them."""
    sides = ("query_0_Transformer", "document_0_Transformer")
    for seed, side in enumerate(sides):
        tensors = handmade.random_tensors(handmade.bert_shapes(), seed=seed)
        handmade.write_base(tmp_path / "base" / side, tensors=tensors)
        lora = handmade.lora_tensors(handmade.attention_modules(), handmade.bert_shapes(), seed=10 + seed)
        handmade.write_adapter(tmp_path / "adapter" / side, tmp_path / "base", tensors=lora)
    for folder in (tmp_path / "base", tmp_path / "adapter"):
        write_json(folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.Router"}])
        types = dict.fromkeys(sides, "sentence_transformers.models.Transformer")
        write_json(folder / "router_config.json", {"types": types, "structure": {"query": [sides[0]]}})

    output = merged(tmp_path / "adapter")

    for side in sides:
        before, after = load_file(tmp_path / "base" / side / "model.safetensors"), weights(output / side)
        lora = load_file(tmp_path / "adapter" / side / "adapter_model.safetensors")
        for name, value in after.items():
            module = name.removesuffix(".weight")
            delta = torch.zeros_like(value, dtype=torch.float64)
            if f"base_model.model.{module}.lora_A.weight" in lora and name.endswith(".weight"):
                a, b = (lora[f"base_model.model.{module}.lora_{s}.weight"].double() for s in "AB")
                delta = 2 * b @ a
            torch.testing.assert_close(value.double(), before[name].double() + delta, rtol=1e-5, atol=1e-6)
    manifest = json.loads((output / "ingraft.json").read_text())
    assert len(manifest["tensors"]) == 8
    assert len(manifest["base"]["files"]) == 2
    assert list(output.rglob("adapter_*")) == []


def test_other_copies_of_the_base_are_left_behind() -> None:
    """Unmerged weights in another format, and what an adapter or an earlier merge left, are stale in the output."""
    base = copy_of(sentence_base("bert"))
    adapter = plain_adapter(sentence_base("bert"), lora_config("bert"))
    (base / "onnx").mkdir()
    for stale in ("onnx/model.onnx", "onnx/config.json", "openvino_model.xml", "tf_model.h5", "adapter_config.json",
                  "ingraft.json", "pytorch_model.bin", ".git", "training_args.bin"):  # fmt: skip
        (base / stale).write_text("stale")
    (base / "LICENSE").write_text("kept")

    output = merged(adapter, "--base", base, "--layout", "keep")

    assert files_besides_weights(output) == {
        **files_besides_weights(sentence_base("bert")),
        "LICENSE": snapshot(base)["LICENSE"],
    }


REMOTE_CODE = """
from pathlib import Path
Path({marker!r}).write_text("this code was run")
from transformers import BertModel
class OwnModel(BertModel):
    pass
"""


def remote_base(marker: Path) -> Path:
    base = copy_of(sentence_base("bert"))
    (base / "modeling_own.py").write_text(REMOTE_CODE.format(marker=str(marker)))
    (base / "nested").mkdir()
    (base / "nested" / "layers.py").write_text(REMOTE_CODE.format(marker=str(marker)))
    edit_json(base / "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"}, architectures=["OwnModel"])
    return base


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--trust-remote-code"]], ids=["merge", "dry run", "trusted"])
def test_remote_code_is_copied_and_not_run(options: list[str], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    base = remote_base(marker)
    adapter = plain_adapter(sentence_base("bert"), lora_config("bert"))

    run = cli("merge", adapter, tmp_path / "out", "--base", base, "--layout", "keep", *options)

    assert (run.code, run.err) == (0, "")
    assert not marker.exists()
    if "--dry-run" not in options:
        for name in ("modeling_own.py", "nested/layers.py", "config.json"):
            assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
        check_exact(tmp_path / "out", exact_parameters(sentence_base("bert"), adapter))


def test_remote_code_that_would_have_to_be_run(tmp_path: Path) -> None:
    """Names that fit nothing as they are could be explained by the model's class alone."""
    marker = tmp_path / "marker"
    base = remote_base(marker)
    adapter = copy_of(plain_adapter(sentence_base("bert"), lora_config("bert", target_modules=["query"])))
    file = adapter / "adapter_model.safetensors"
    save_file({k.replace(".self.query", ".Wq"): v for k, v in load_file(file).items()}, file, {"format": "pt"})
    edit_json(adapter / "adapter_config.json", target_modules=["Wq"])

    run = cli("merge", adapter, tmp_path / "out", "--base", base)

    assert run.code == 2
    assert "--trust-remote-code" in run.err
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


LOADER = """
import json, sys
sys.modules["peft"] = None  # importing it fails from here on
from sentence_transformers import SentenceTransformer
texts = json.loads(sys.argv[1])
found = {}
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu")
    found[folder] = {
        "embeddings": model.encode(texts).astype("float32").tolist(),
        "query": None,
        "similarity": model.similarity_fn_name,
        "dtype": str(model[0].model.dtype),
    }
    if model.prompts.get("query"):
        found[folder]["query"] = model.encode(texts, prompt_name="query").astype("float32").tolist()
print(json.dumps(found))
"""


def test_loads_and_embeds_without_peft() -> None:
    """SentenceTransformer(output), in a process that has no peft, answers like base + adapter unmerged."""
    cases = [
        (*adapter_of(architecture, dtype), dtype) for architecture in ARCHITECTURES for dtype in ("float32", "bfloat16")
    ]
    dense = sentence_base("bert", dense=True)
    cases.append((dense, plain_adapter(dense, lora_config("bert")), "float32"))
    cases.append((*adapter_of("bert", "float32", 3), "float32"))
    plain = plain_base("bert")
    cases.append((plain, plain_adapter(plain, lora_config("bert", lora_bias=True)), "float32"))
    moved = moved_into_module_folder(sentence_base("bert"))
    cases.append((moved, sentence_adapter(moved, lora_config("bert")), "float32"))
    outputs = [merged_once(adapter) for _, adapter, _ in cases]

    command = [sys.executable, "-c", LOADER, json.dumps(TEXTS), *map(str, outputs)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])

    for (base, adapter, dtype), output in zip(cases, outputs, strict=True):
        answer = found[str(output)]
        tolerance = 2e-5 if dtype == "float32" else 0.05
        assert answer["dtype"] == f"torch.{dtype}"
        expected = embed_adapted(base, adapter)
        torch.testing.assert_close(torch.tensor(answer["embeddings"]), expected, rtol=0, atol=tolerance)
        assert not torch.allclose(torch.tensor(answer["embeddings"]), embed_base(base), atol=0.02)
        if answer["query"]:
            expected = embed_adapted(base, adapter, prompt="query")
            torch.testing.assert_close(torch.tensor(answer["query"]), expected, rtol=0, atol=tolerance)
        assert answer["similarity"] == "cosine"


def embed_base(base: Path) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    found: torch.Tensor = SentenceTransformer(str(base), device="cpu").encode(TEXTS, convert_to_tensor=True)
    return found.float()


# Merges that change nothing


def with_small_delta(adapter: Path, factor: float) -> Path:
    copy = copy_of(adapter)
    file = copy / "adapter_model.safetensors"
    tensors = {k: v * factor if "lora_B" in k else v for k, v in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    return copy


@pytest.mark.parametrize("dtype", DTYPES)
def test_untrained_adapter_is_refused(dtype: str, tmp_path: Path) -> None:
    adapter = with_small_delta(adapter_of("bert", dtype)[1], 0.0)

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 2
    assert "changes nothing" in run.err
    assert snapshot(tmp_path) == {}


def test_delta_that_the_dtype_swallows_is_refused(tmp_path: Path) -> None:
    base = plain_base("bert", "bfloat16")
    adapter = with_small_delta(plain_adapter(base, lora_config("bert")), 1e-7)

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 2
    assert "cannot hold any of the adapter's delta" in run.err
    assert "--dtype float32" in run.err
    assert snapshot(tmp_path) == {}
    check_exact(merged(adapter, "--dtype", "float32"), exact_parameters(base, adapter))


def test_loss_of_rounding_is_reported(tmp_path: Path) -> None:
    adapter = with_small_delta(adapter_of("bert", "bfloat16")[1], 1 / 200)

    run = cli("merge", adapter, tmp_path / "out", "--format", "json")
    figures = json.loads(run.out)["verification"]["figures"]

    base = adapter_of("bert", "bfloat16")[0]
    truth = exact_parameters(base, adapter)
    before, after = weights(base), weights(tmp_path / "out")
    delta = torch.cat([(truth.parameters[n] - before[n].double()).flatten() for n in sorted(truth.changed)])
    loss = torch.cat([(after[n].double() - truth.parameters[n]).flatten() for n in sorted(truth.changed)])
    changed = sum(int((before[n] != after[n]).sum()) for n in truth.changed)
    assert figures["kept_of_delta"] == pytest.approx(1 - float(loss.norm() / delta.norm()), rel=1e-3)
    assert 0.1 < figures["kept_of_delta"] < 0.9
    assert (figures["elements_changed"], figures["elements_edited"]) == (changed, delta.numel())
    one = figures["tensors"][0]
    name = one["tensor"]
    exact = truth.parameters[name] - before[name].double()
    assert one["delta_norm"] == pytest.approx(float(exact.norm()), rel=1e-4)
    assert one["base_norm"] == pytest.approx(float(before[name].double().norm()), rel=1e-4)
    assert one["rounding_loss"] == pytest.approx(
        float((after[name].double() - truth.parameters[name]).norm() / exact.norm()), rel=1e-3
    )


# What is printed and kept


def test_report_for_people() -> None:
    _, adapter = adapter_of("bert")
    output = new_folder("out") / "out"

    run = cli("merge", adapter, output)

    lines = run.out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "base", "adapter", "plan", "merge", "proof", "model",
    ]  # fmt: skip
    assert "BertModel" in lines[0]
    assert "float32" in lines[0]
    assert "r=8 α=16 scale 2" in run.out
    assert "dense, key, query, value in 2 layers" in run.out
    assert "13 tensors edited, 26 copied byte for byte" in run.out
    assert "26 of 26 adapter tensors used · 26 of 26 untouched tensors identical" in run.out
    assert f'SentenceTransformer("{output}")' in run.out


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")

    run = cli("merge", adapter, tmp_path / "out", "--dry-run")

    assert (run.code, run.err) == (0, "")
    assert "13 tensors edited" in run.out
    assert "proof" not in run.out
    assert snapshot(tmp_path) == {}


def test_plan_as_json(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")

    run = cli(
        "merge", adapter, tmp_path / "out", "--dry-run", "--format", "json", "--save-plan", tmp_path / "plan.json"
    )

    plan = json.loads(run.out)["plan"]
    assert plan == json.loads((tmp_path / "plan.json").read_text())
    assert set(snapshot(tmp_path)) == {"plan.json"}
    steps = [step for shard in plan["shards"] for step in shard["steps"]]
    assert sum(step["action"] == "edit" for step in steps) == 13
    assert all(step["reason"] for step in steps)
    edit = next(step for step in steps if step["tensor"] == "encoder.layer.0.attention.self.query.weight")["edits"][0]
    assert edit["formula"] == "lora:lora"
    assert edit["settings"]["scale"] == 2.0
    assert set(edit["inputs"]) == {"lora_A", "lora_B"}


def test_result_as_json(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")

    run = cli("merge", adapter, tmp_path / "out", "--format", "json")

    found = json.loads(run.out)
    assert (run.code, run.err) == (0, "")
    assert found["output"] == str(tmp_path / "out")
    assert found["verification"]["passed"] is True
    checks = {check["name"]: check for check in found["verification"]["checks"]}
    assert (checks["adapter tensors"]["value"], checks["adapter tensors"]["limit"]) == (26, 26)
    assert (checks["untouched tensors"]["value"], checks["untouched tensors"]["limit"]) == (26, 26)
    assert checks["probes"]["value"] <= 1


def test_plan_that_cannot_be_saved(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")

    run = cli("merge", adapter, tmp_path / "out", "--save-plan", tmp_path / "none" / "plan.json")

    assert run.code == 2
    assert "plan.json cannot be written" in run.err
    assert snapshot(tmp_path) == {}


def test_manifest() -> None:
    import hashlib

    base, adapter = adapter_of("bert", "bfloat16", 3)
    output = merged_once(adapter)

    manifest = json.loads((output / "ingraft.json").read_text())

    assert manifest["schema"] == 1
    assert {"ingraft", "torch", "safetensors", "python"} <= manifest["versions"].keys()
    assert (manifest["base"]["name"], manifest["adapter"]["name"]) == (str(base), str(adapter))
    assert manifest["method"] == "LoRA"
    edited = {tensor["name"] for tensor in manifest["tensors"]}
    assert edited == exact_parameters(base, adapter).changed
    assert manifest["verification"]["passed"] is True

    def sha256(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    written = {
        str(p.relative_to(output)): sha256(p) for p in output.rglob("*") if p.is_file() and p.name != "ingraft.json"
    }
    assert manifest["files"] == written
    assert manifest["base"]["files"] == {path.name: sha256(path) for path in base.glob("*.safetensors")}
    assert manifest["adapter"]["files"] == {"adapter_model.safetensors": sha256(adapter / "adapter_model.safetensors")}


def test_without_proof(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")

    run = cli("merge", adapter, tmp_path / "out", "--no-verify")

    assert run.code == 0
    assert "--no-verify" in run.out
    assert json.loads((tmp_path / "out" / "ingraft.json").read_text())["verification"] is None
    assert stored_tensors(tmp_path / "out") == stored_tensors(merged_once(adapter))


def test_overwrite(tmp_path: Path) -> None:
    _, adapter = adapter_of("bert")
    output = tmp_path / "out"
    shutil.copytree(adapter, output)
    (output / "stale.txt").write_text("stale")

    assert cli("merge", adapter, output).code == 2
    run = cli("merge", adapter, output, "--overwrite")

    assert (run.code, run.err) == (0, "")
    assert files_besides_weights(output) == files_besides_weights(merged_once(adapter))
    assert set(snapshot(tmp_path)) == {"out", *(f"out/{name}" for name in snapshot(output))}


def test_python_api(tmp_path: Path) -> None:
    import ingraft as api

    base, adapter = adapter_of("bert")
    stages: list[str] = []

    class Watched:
        done = 0

        def begin(self, stage: str, total: int) -> None:
            stages.append(f"{stage} {total}")
            self.done = 0

        def advance(self, count: int) -> None:
            self.done += count

        def end(self) -> None:
            stages.append(f"{self.done}")

    plan = api.plan_merge(adapter)
    result = api.merge(adapter, tmp_path / "out", base=base, progress=Watched())

    size = sum(len(data) for _, _, data in stored_tensors(base).values())
    file = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert stages == [f"merge {file + size}", str(file + size)]
    assert result.output == tmp_path / "out"
    assert result.report is not None
    assert result.report.passed
    assert [step.tensor for step in result.plan.steps()] == [step.tensor for step in plan.steps()]
    assert {figure.tensor for figure in result.figures} == exact_parameters(base, adapter).changed


def test_failing_proof_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that goes wrong between making and proof is found, whatever tensor it is in."""
    import ingraft.execute

    _, adapter = adapter_of("bert", "float32", 3)
    real = ingraft.execute.execute
    for name in ("encoder.layer.0.attention.self.query.weight", "embeddings.LayerNorm.weight"):

        def spoiled(plan: Any, folder: Path, *, finished: Any, spoil: str = name, **arguments: Any) -> Any:
            def spoil_it(shard: Any) -> None:
                file = folder / shard.file
                if spoil in raw_tensors(file):
                    tensors = load_file(file)
                    tensors[spoil].view(-1)[5] += 0.01
                    save_file(tensors, file, {"format": "pt"})
                finished(shard)

            return real(plan, folder, finished=spoil_it, **arguments)

        monkeypatch.setattr(ingraft.pipeline, "execute", spoiled)
        run = cli("merge", adapter, tmp_path / "out")

        assert run.code == 1
        assert run.err.startswith("error: The proof failed: ")
        assert snapshot(tmp_path) == {}
