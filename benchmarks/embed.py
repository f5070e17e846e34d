"""Embedding a file of real texts in the file's order: `SentenceTransformer.encode` against `ingraft embed`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy  # noqa: E402
import pyarrow.parquet  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from ingraft.demo.data import catalogue, model_directory  # noqa: E402
from ingraft.embedding.run import embed  # noqa: E402
from ingraft.exporters.run import export  # noqa: E402

_BATCH = 32
_ENCODE = "`SentenceTransformer.encode`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-save", action="store_true", help="print only")
    chosen = parser.parse_args()
    torch.set_num_threads(1)  # a figure that neighbours on the machine change least
    with tempfile.TemporaryDirectory(prefix="ingraft-embed-") as name:
        page = table(measure(Path(name), chosen.texts, chosen.rounds), describe(Path(name)))
    print(page)
    if not chosen.no_save:
        (ROOT / "benchmarks" / "embed.md").write_text(page, encoding="utf-8")


def icd_texts(count: int) -> list[str]:
    """Titles and inclusion terms of ICD-10-CM, each once, shuffled: texts of very different lengths in no order."""
    diagnoses = catalogue()
    texts = [text for diagnosis in diagnoses for text in (diagnosis.title, *diagnosis.terms)]
    once = list(dict.fromkeys(texts))
    random.Random(0).shuffle(once)
    return once[:count]


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Every contender in turn, `rounds` times: texts a second, and how far its vectors are from encode's."""
    texts = icd_texts(count)
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    models = {"torch": model_directory(), "onnx": folder / "onnx", "openvino": folder / "openvino"}
    export(models["torch"], models["onnx"], to="onnx", weights=False)
    export(models["torch"], models["openvino"], to="openvino", weights=False)
    model = SentenceTransformer(str(models["torch"]), device="cpu")
    model.encode(texts[:_BATCH], batch_size=_BATCH)

    rates: dict[str, list[float]] = {}
    distances: dict[str, float] = {}
    for turn in range(rounds):
        started = time.perf_counter()
        expected = model.encode(texts, batch_size=_BATCH)
        rates.setdefault(_ENCODE, []).append(count / (time.perf_counter() - started))
        for backend, place in models.items():
            output = folder / f"{backend}-{turn}.parquet"
            found = embed(place, file, output, backend=backend, batch_size=_BATCH, device="cpu")  # type: ignore[arg-type]
            name = f"`ingraft embed --backend {backend}`"
            rates.setdefault(name, []).append(found.texts_per_second)
            vectors = numpy.stack(pyarrow.parquet.read_table(output).column("embedding").to_numpy())
            distances[name] = float(numpy.abs(vectors - expected).max())
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in texts]
    return {
        "rates": rates,
        "distances": distances,
        "texts": count,
        "tokens": [min(lengths), int(median(lengths)), max(lengths)],
    }


def table(measured: dict[str, Any], machine: dict[str, Any]) -> str:
    """The page in Markdown."""
    encode = median(measured["rates"][_ENCODE])
    lines = [
        "# Embedding a file",
        "",
        f"all-MiniLM-L6-v2 on {measured['texts']:,} texts of ICD-10-CM in random order, of {measured['tokens'][0]} to "
        f"{measured['tokens'][2]} tokens (median {measured['tokens'][1]}), in batches of {_BATCH}, on one thread. "
        "Median of the rounds, the slowest and the fastest in brackets; the model is loaded before the clock starts. "
        "`encode` has the texts in memory and returns an array; `ingraft embed` reads JSONL and ends when the Parquet "
        "file is on the disk. It sorts by tokens, `encode` by characters.",
        "",
        "| | texts/s | against `encode` | largest difference of a number |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, rates in measured["rates"].items():
        rate = median(rates)
        far = f"{measured['distances'][name]:.1e}" if name in measured["distances"] else "reference"
        lines.append(f"| {name} | {rate:.0f} ({min(rates):.0f}–{max(rates):.0f}) | {rate / encode:.2f} × | {far} |")
    versions = " · ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines += ["", f"{machine['date']} · {machine['processor']}, {machine['cores']} cores · {versions}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
