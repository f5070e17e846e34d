"""`ingraft embed`: vectors equal to encode's, on the disk whole or resumable, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest

from helpers.embeddings import ids_of, some_texts, vectors_of, write_texts
from helpers.exports import cross_encoder, last_token_model
from helpers.files import edit_json, snapshot
from helpers.merging import cli
from helpers.models import copy_of, sentence_base
from helpers.running import start

TEXTS = some_texts(60)


def encode(model: Path, texts: list[str], **settings: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu").encode(texts, **settings)


def embedded(*arguments: str | Path) -> dict[str, Any]:
    run = cli("embed", *arguments, "--format", "json")
    assert (run.code, run.err) == (0, ""), run.err
    facts: dict[str, Any] = json.loads(run.out)
    return facts


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_vectors_are_those_of_encode(tmp_path: Path, suffix: str) -> None:
    model, codes = sentence_base("bert", dense=True), [f"c{row}" for row in range(len(TEXTS))]
    file = write_texts(tmp_path / f"texts{suffix}", TEXTS, ids=codes)
    output = tmp_path / "vectors.parquet"

    facts = embedded(model, file, output, "--id-column", "code", "--window", "17", "--prompt-name", "query")

    assert numpy.abs(vectors_of(output) - encode(model, TEXTS, prompt_name="query")).max() < 1e-6
    assert ids_of(output, "code") == codes
    assert (facts["rows"], facts["resumed"], facts["dimension"]) == (60, 0, 16)
    assert sorted(snapshot(tmp_path)) == sorted([file.name, "vectors.parquet"])


@pytest.mark.parametrize("precision", ["float16", "int8", "binary"])
def test_precisions_are_those_of_encode(tmp_path: Path, precision: str) -> None:
    model, output = sentence_base("bert"), tmp_path / "vectors.parquet"
    embedded(model, write_texts(tmp_path / "texts.csv", TEXTS, ids=TEXTS), output, "--precision", precision)

    found = vectors_of(output)
    if precision == "float16":
        assert numpy.abs(found - encode(model, TEXTS)).max() < 1e-3
    else:  # a number on an edge may fall to either side
        expected = encode(model, TEXTS, precision=precision)
        assert found.shape == expected.shape
        assert (found != expected).mean() < 0.01
    assert ids_of(output) == list(range(60))


def test_export_embeds_without_torch_weights(tmp_path: Path) -> None:
    model = last_token_model("qwen3", "left")
    assert cli("export", model, tmp_path / "onnx", "--no-weights").code == 0
    file = write_texts(tmp_path / "texts.jsonl", TEXTS)

    facts = embedded(tmp_path / "onnx", file, tmp_path / "v.parquet", "--backend", "onnx", "--prompt-name", "query")

    assert facts["backend"] == "onnx"
    assert not (tmp_path / "onnx/model.safetensors").exists()
    assert numpy.abs(vectors_of(tmp_path / "v.parquet") - encode(model, TEXTS, prompt_name="query")).max() < 1e-6


def test_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    model, texts = sentence_base("bert"), some_texts(400)
    file, output = write_texts(tmp_path / "texts.jsonl", texts), tmp_path / "vectors.parquet"
    command = ("embed", model, file, output, "--window", "2")
    parts = tmp_path / ".vectors.parquet.parts"

    process = start(*command)
    while process.is_alive() and len(list(parts.glob("part-*.parquet"))) < 5:
        time.sleep(0.002)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    there = len(list(parts.glob("part-*.parquet")))
    assert 5 <= there < 200, "killed too late"
    assert not output.exists()

    other = cli(*command, "--precision", "binary")
    assert other.code == 2
    assert "was begun with another precision" in other.err

    facts = embedded(*command[1:])

    assert facts["resumed"] == 2 * there
    assert ids_of(output) == list(range(400))
    assert numpy.abs(vectors_of(output) - encode(model, texts)).max() < 1e-6
    assert not parts.exists()


def test_mistake_in_a_late_row_keeps_what_was_done(tmp_path: Path) -> None:
    file, output = tmp_path / "texts.jsonl", tmp_path / "v.parquet"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS[:20], None]))

    run = cli("embed", sentence_base("bert"), file, output, "--window", "8")

    assert run.code == 2
    assert "has no text in text of row 20" in run.err
    assert not output.exists()
    assert len(list((tmp_path / ".v.parquet.parts").glob("part-*.parquet"))) == 2
    # Mended, it is another file: its rows may be other rows.
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:21]))
    assert "begun with another input file" in cli("embed", sentence_base("bert"), file, output, "--window", "8").err
    assert embedded(sentence_base("bert"), file, output, "--window", "8", "--restart")["resumed"] == 0


def test_rows_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    """Their weights may be the same, and their pooling not."""
    model = copy_of(sentence_base("bert"))
    file, output = tmp_path / "texts.jsonl", tmp_path / "v.parquet"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS[:20], None]))
    assert "has no text in text of row 20" in cli("embed", model, file, output, "--window", "8").err

    edit_json(model / "1_Pooling" / "config.json", pooling_mode="cls")

    run = cli("embed", model, file, output, "--window", "8")
    assert run.code == 2
    assert "begun with another version of the model" in run.err


def test_refusals(tmp_path: Path) -> None:
    base, file = sentence_base("bert"), write_texts(tmp_path / "texts.jsonl", TEXTS)
    output = tmp_path / "v.parquet"
    (tmp_path / "there.parquet").write_text("x")
    refused = {
        ("embed", cross_encoder(), file, output): "only dense vectors can be written",
        ("embed", base, file, tmp_path / "v.csv"): "must end in .parquet",
        ("embed", base, file, tmp_path / "there.parquet"): "exists",
        ("embed", base, file, output, "--backend", "onnx"): "has no graph for onnx",
        ("embed", base, file, output, "--prompt-name", "nothing"): "Its prompts are: document, query",
        ("embed", base, file, output, "--workers", "2"): "--workers is for --engine ray",
        ("embed", base, tmp_path / "nothing.csv", output): "does not exist",
        ("embed", base, file, output, "--device", "gpu"): "Leave out --device gpu",
        ("embed", base, file, base / "v.parquet"): "lies in the model's directory",
        ("embed", base, file, tmp_path / "there.parquet" / "v.parquet"): "v.parquet cannot be written: Not a directory",
    }
    for arguments, words in refused.items():
        run = cli(*arguments)
        assert run.code == 2, arguments
        assert words in run.err
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["texts.jsonl", "there.parquet"]


def test_for_people(tmp_path: Path) -> None:
    run = cli("embed", sentence_base("bert"), write_texts(tmp_path / "t.jsonl", TEXTS), tmp_path / "v.parquet")

    assert run.code == 0, run.err
    assert run.out.startswith("texts     60\nembed     torch · local · ")
    assert "float32[64]" in run.out


@pytest.mark.slow
def test_ray_with_a_worker_killed(tmp_path: Path) -> None:
    model, texts = sentence_base("bert"), some_texts(600)
    file, output = write_texts(tmp_path / "texts.jsonl", texts), tmp_path / "v.parquet"
    command = ["embed", model, file, output, "--window", "4", "--engine", "ray", "--workers", "2", "--format", "json"]
    parts = tmp_path / ".v.parquet.parts"

    process = subprocess.Popen(
        [sys.executable, "-m", "ingraft", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    try:
        while process.poll() is None and len(list(parts.glob("part-*.parquet"))) < 10:
            time.sleep(0.005)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.cmdline() and "MapWorker" in child.cmdline()[0]
        ]
        there = len(list(parts.glob("part-*.parquet")))
        assert len(workers) == 2
        workers[0].kill()
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()

    assert process.returncode == 0, err
    assert there < 140, "killed too late"
    assert json.loads(out)["engine"] == "ray"
    assert not workers[0].is_running()
    assert ids_of(output) == list(range(600))
    assert numpy.abs(vectors_of(output) - encode(model, texts)).max() < 1e-6
