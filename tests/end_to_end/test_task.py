"""`ingraft verify --task`: the user's own evaluation of base, adapted and merged model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.merging import cli, merged_once
from helpers.models import lora_config, sentence_adapter, sentence_base
from ingraft.errors import UnusableInput
from ingraft.proof import read_task

WORDS = [
    "fever", "cough", "pain", "chest", "acute", "chronic", "hand", "foot", "fracture", "open", "closed", "diabetes",
    "blood", "kidney",
]  # fmt: skip


def beir(folder: Path, *, split: str = "test") -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": word, "text": f"{word} of the heart"} for n, word in enumerate(WORDS)]
    queries = [{"_id": f"q{n}", "text": f"{word} pain"} for n, word in enumerate(WORDS)]
    judged = [f"q{n}\td{(n * 3) % len(WORDS)}\t1" for n in range(len(WORDS))]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def test_retrieval_of_the_three_models(tmp_path: Path) -> None:
    adapter = sentence_adapter(sentence_base("bert"), lora_config("bert"))

    run = cli("verify", merged_once(adapter), "--adapter", adapter, "--task", beir(tmp_path), "--format", "json")

    assert (run.code, run.err) == (0, "")
    task = json.loads(run.out)["figures"]["task"]
    assert (task["kind"], task["items"], task["documents"]) == ("retrieval", 14, 14)
    for row in task["metrics"]:
        assert row["merged"] == row["adapted"] != row["base"]
        assert row["merged_minus_adapted"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
        assert row["adapted_minus_base"]["low"] < row["adapted_minus_base"]["high"]


def test_pairs_on_the_page_and_in_the_table(tmp_path: Path) -> None:
    adapter = sentence_adapter(sentence_base("bert"), lora_config("bert"))
    pairs = tmp_path / "pairs.csv"
    rows = [f"{a} pain,{b} left,{(3 * n) % 7 / 7}" for n, (a, b) in enumerate(zip(WORDS, WORDS[3:], strict=False))]
    pairs.write_text("\n".join(["sentence1,sentence2,score", *rows]))
    page = tmp_path / "report.html"

    run = cli("verify", merged_once(adapter), "--adapter", adapter, "--task", pairs, "--report", page)

    assert (run.code, run.err) == (0, "")
    assert "task      11 pairs" in run.out
    line = next(line for line in run.out.splitlines() if line.startswith("Spearman"))
    text = page.read_text(encoding="utf-8")
    assert "Your task" in text
    assert all(value in text for value in line.split()[1:4])


def test_what_is_no_task_is_refused_before_the_models_run(tmp_path: Path) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,label\nfever,1\ncough,1\npain,1\n")
    adapter = sentence_adapter(sentence_base("bert"), lora_config("bert"))
    for options in (["--task", tmp_path / "missing.csv"], ["--task", beir(tmp_path / "b"), "--no-embeddings"]):
        run = cli("verify", merged_once(adapter), "--adapter", adapter, *options)
        assert (run.code, run.out) == (2, "")
    with pytest.raises(UnusableInput):
        read_task(texts)
    assert read_task(beir(tmp_path / "dev", split="dev"))["queries"].keys() == {f"q{n}" for n in range(14)}
