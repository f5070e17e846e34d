"""Who reads what: each reader with its environment, and what `ingraft doctor` calls it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interop.models import Model


@dataclass(frozen=True)
class Reader:
    """layouts  in which the merged model is offered; `adapter_on` is the base that the adapter is put on, if it can be
    server   its name for `ingraft doctor`; None where that has no rules for it
    """

    name: str
    environment: str
    script: str
    server: str | None
    layouts: tuple[str, ...]
    adapter_on: str | None = None


_ALL = ("portable", "legacy", "keep")
READERS = (
    Reader(
        "Sentence Transformers 3.4", "st34", "sentence_transformers_encode", "sentence-transformers==3.4", _ALL, "older"
    ),
    Reader(
        "Sentence Transformers 5.1", "st51", "sentence_transformers_encode", "sentence-transformers==5.1", _ALL, "older"
    ),
    Reader("transformers 4.57, pooled by hand", "st51", "transformers_by_hand", None, ("portable", "legacy")),
    Reader("transformers 5.23, pooled by hand", "own", "transformers_by_hand", None, ("portable", "legacy")),
    Reader("Sentence Transformers 5.7, ONNX backend", "st57", "sentence_transformers_onnx", None, ("ONNX",)),
    Reader("infinity, HTTP", "infinity", "infinity_http", "infinity", _ALL),
    Reader("fastembed", "fastembed", "fastembed_embed", "fastembed", ("portable", "ONNX")),
    Reader("vLLM, offline", "vllm", "vllm_offline", "vllm", _ALL, "base"),
    Reader("vLLM, server and OpenAI's client", "vllm", "vllm_openai", "vllm", ("portable",), "base"),
)
NOT_RUN = ("text-embeddings-inference", "llama.cpp")


@dataclass(frozen=True)
class Offer:
    """What a reader is given: a merged model, or the base with the adapter."""

    what: str
    model: Path
    adapter: Path | None


def offers(reader: Reader, model: Model) -> list[Offer]:
    found = [Offer(layout, model.merged[layout], None) for layout in reader.layouts]
    if reader.adapter_on:
        base = model.older_base if reader.adapter_on == "older" else model.base
        found.append(Offer("base + adapter", base, model.adapter))
    return found
