"""`ingraft export` on real small models, read back by ONNX Runtime and the `tokenizers` library alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from helpers.exports import cross_encoder, last_token_model, pairs_file, sparse_encoder
from helpers.files import edit_json, snapshot
from helpers.merging import cli
from helpers.models import TEXTS, copy_of, lora_config, new_folder, sentence_adapter, sentence_base
from ingraft.exporters import graph as graph_module
from ingraft.exporters import run as run_module

READ = [*TEXTS, "pain", " ".join(TEXTS * 6)]  # the last one is longer than the models take


def tokens(folder: Path, texts: list[Any]) -> dict[str, Any]:
    """What the folder's tokenizer.json makes of texts by itself: padded on the right side, and cut off."""
    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    return {
        "input_ids": numpy.array([one.ids for one in encoded]),
        "attention_mask": numpy.array([one.attention_mask for one in encoded]),
    }


def run_graph(folder: Path, arrays: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})[0]


def exported(model: Path, *options: str | Path) -> tuple[Path, dict[str, Any]]:
    output = new_folder("export") / "out"
    run = cli("export", model, output, "--format", "json", *options)
    assert (run.code, run.err) == (0, ""), run.err
    return output, json.loads(run.out)


@pytest.mark.parametrize(("architecture", "side"), [("qwen3", "left"), ("mistral", "right")])
def test_pooled_decoder_in_onnxruntime_alone(architecture: str, side: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = copy_of(last_token_model(architecture, side))
    edit_json(model / "tokenizer_config.json", max_length=5)  # a leftover, such as transformers saves
    output, facts = exported(model, "--pooled", "--opset", "18", "--no-weights")

    expected = SentenceTransformer(str(model), device="cpu").encode(READ)
    found = run_graph(output, tokens(output, READ))
    assert numpy.abs(found - expected).max() < 1e-6
    config = json.loads((output / "tokenizer_config.json").read_text())
    assert config["max_length"] == config["model_max_length"] == 60
    assert facts["opset"] == 18
    assert onnx.load(output / "onnx/model.onnx").opset_import[0].version == 18
    kept = set(snapshot(model)) - {"model.safetensors"}
    assert set(snapshot(output)) == kept | {"onnx", "onnx/model.onnx", "ingraft.json"}


def test_int8_is_measured_and_its_files_are_hashed() -> None:
    from sentence_transformers import SentenceTransformer

    model, pairs = sentence_base("bert", dense=True), pairs_file()
    output, facts = exported(model, "--quantize", "int8", "--data", pairs, "--max-drop", "1")

    states = run_graph(output, tokens(output, READ))
    assert states.shape == (len(READ), 60, 64)
    live = SentenceTransformer(str(model), device="cpu")
    mean = numpy.mean(states[1, : len(TEXTS[1].split()) + 2], axis=0)
    expected = live[0](live.preprocess([TEXTS[1]]))["token_embeddings"][0].mean(dim=0).detach().numpy()
    assert 0.98 < numpy.dot(mean, expected) / numpy.linalg.norm(mean) / numpy.linalg.norm(expected) < 1 - 1e-6

    before, after = facts["metrics"]["nDCG@10"]
    assert facts["verification"]["checks"][1]["value"] == pytest.approx(before - after)
    assert [variant["name"] for variant in facts["variants"]] == ["torch float32", "onnx float32", "onnx int8"]
    manifest = json.loads((output / "ingraft.json").read_text())
    assert manifest["export"]["format"] == "onnx int8"
    found = {path: digest for path, digest in snapshot(output).items() if digest != "directory"}
    del found["ingraft.json"]
    assert manifest["files"] == found
    assert "onnx int8" in (output / "README.md").read_text()
    assert (output / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_cross_encoder_with_its_weights_beside_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import CrossEncoder

    monkeypatch.setattr(graph_module, "EXTERNAL_ABOVE", 0)
    model = cross_encoder()
    output, _ = exported(model)

    assert b"site-packages" not in (output / "onnx/model.onnx").read_bytes()
    assert (output / "onnx/model.onnx.data").stat().st_size > (output / "onnx/model.onnx").stat().st_size
    pairs = [(READ[n], READ[-1 - n]) for n in range(len(READ))]
    expected = CrossEncoder(str(model), device="cpu").predict(pairs, activation_fn=_as_it_is())
    found = run_graph(output, tokens(output, pairs))
    assert numpy.abs(found.reshape(-1) - expected).max() < 1e-5


def _as_it_is() -> Any:
    import torch

    return torch.nn.Identity()


def test_openvino_with_the_hint_that_lies_beside_it() -> None:
    import openvino
    from sentence_transformers import SentenceTransformer

    model = sentence_base("bert")
    output, facts = exported(model, "--to", "openvino", "--pooled", "--no-weights")

    settings = json.loads((output / "openvino/ov_config.json").read_text())
    compiled = openvino.Core().compile_model(output / "openvino/openvino_model.xml", "CPU", settings)
    found = compiled(tokens(output, READ))["sentence_embedding"]
    assert numpy.abs(found - SentenceTransformer(str(model), device="cpu").encode(READ)).max() < 1e-6
    assert not (output / "onnx").exists()
    assert [check["name"] for check in facts["verification"]["checks"]] == [
        "onnx answers",
        "tokens",
        "openvino answers",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "qwen2", "modernbert"])
def test_other_classes_and_architectures(name: str) -> None:
    model = {
        "sparse": sparse_encoder,
        "qwen2": lambda: last_token_model("qwen2", "left"),
        "modernbert": lambda: sentence_base("modernbert"),
    }[name]()
    _, facts = exported(model)

    check = facts["verification"]["checks"][0]
    assert check["passed"]
    assert check["value"] < 2e-6


def test_graph_that_ignores_the_mask_is_not_published(monkeypatch: pytest.MonkeyPatch) -> None:
    write = run_module.write_graph

    def unmasked(source: Any, path: Path, **settings: Any) -> Any:
        forward = source.live[0].model.forward
        monkeypatch.setattr(source.live[0].model, "forward", lambda *, attention_mask, **inputs: forward(**inputs))
        try:
            return write(source, path, **settings)
        finally:
            monkeypatch.undo()

    monkeypatch.setattr(run_module, "write_graph", unmasked)
    parent = new_folder("export")
    run = cli("export", sentence_base("bert"), parent / "out")

    assert run.code == 1, run.err
    assert run.err.startswith("error: The onnx graph does not answer as the model does: ")
    assert "in a batch of" in run.err
    assert list(parent.iterdir()) == []


def test_tokenizer_that_needs_sentence_transformers_is_not_published_pooled() -> None:
    model = copy_of(sentence_base("bert"))
    edit_json(model / "tokenizer.json", normalizer={"type": "Lowercase"}, pre_tokenizer={"type": "WhitespaceSplit"})
    edit_json(model / "tokenizer_config.json", tokenizer_class="BertTokenizer")  # which splits in its own way
    parent = new_folder("export")

    run = cli("export", model, parent / "out", "--pooled")

    assert run.code == 1, run.err
    assert "Without Sentence Transformers the tokenizer makes other tokens" in run.err
    assert list(parent.iterdir()) == []


def test_refusals() -> None:
    output = new_folder("export") / "out"
    base = sentence_base("bert")
    refused = {
        ("export", sentence_adapter(base, lora_config("bert")), output): "expected a merged model",
        ("export", cross_encoder(), output, "--pooled"): "is a CrossEncoder, which has no pooling",
        ("export", base, output, "--quantize", "int8"): "what that costs has to be measured",
        ("export", base, output, "--data", pairs_file()): "there is none",
        ("export", base, output, "--to", "openvino", "--quantize", "int8"): "--quantize writes ONNX",
        ("export", base, base / "out"): "which is read",
        ("export", cross_encoder(), output, "--quantize", "int8", "--data", pairs_file()): "pairs without scores",
        ("export", sparse_encoder(), output, "--quantize", "int8", "--data", pairs_file()): "cannot be measured here",
        ("export", base.parent / "nothing", output): "does not exist",
        ("export", base, output, "--max-drop", "0.5"): "limits what quantising may cost; there is none",
        ("export", base, output, "--opset", "7"): "greater than or equal to 18",
    }
    for arguments, words in refused.items():
        run = cli(*arguments)
        assert run.code == 2, arguments
        assert words in run.err
    assert not output.exists()
    assert not (base / "out").exists()


def test_manifest_of_the_merge_is_carried_on() -> None:
    from helpers.merging import merged

    base = sentence_base("bert")
    merge = merged(sentence_adapter(base, lora_config("bert")))
    output, _ = exported(merge)

    before, after = (json.loads((folder / "ingraft.json").read_text()) for folder in (merge, output))
    assert {name: after[name] for name in before if name != "files"} == {
        name: value for name, value in before.items() if name != "files"
    }
    digest = hashlib.sha256((merge / "model.safetensors").read_bytes()).hexdigest()
    assert after["files"]["model.safetensors"] == digest


def test_for_people() -> None:
    run = cli("export", cross_encoder(), new_folder("export") / "out")

    assert run.code == 0, run.err
    assert "input_ids, attention_mask [batch, length] → logits" in run.out
    assert "torch float32" in run.out
    assert "reference" in run.out
