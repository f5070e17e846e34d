"""A live model as an ONNX graph with free batch size and length."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput
from ingraft.exporters.sessions import POOLED, require
from ingraft.exporters.source import Source
from ingraft.verification.texts import TEXTS

# A file of protocol buffers ends at 2 GB; past this the weights go into a file beside the graph.
EXTERNAL_ABOVE = 1_900_000_000
_OUTPUTS = {"feature-extraction": "last_hidden_state"}
# Three texts of unlike length: no size in the example is one that a graph would take for a constant.
_EXAMPLE = (TEXTS[0], TEXTS[3], TEXTS[7])


@dataclass(frozen=True)
class Graph:
    """A written graph: `path`, its int64 inputs [batch, length], its float32 output, its operator set."""

    path: Path
    inputs: tuple[str, ...]
    output: str
    opset: int


class _Answers(nn.Module):
    """The model's own modules as one function of tensors."""

    def __init__(self, modules: list[Any], names: tuple[str, ...], key: str) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.names, self.key = names, key

    def forward(self, *tensors: Tensor) -> Tensor:
        features: dict[str, Any] = {**dict(zip(self.names, tensors, strict=True)), "modality": "text"}
        for part in self.parts:
            features = part(features)
        answer: Tensor = features[self.key]
        return answer


def write_graph(source: Source, path: Path, *, pooled: bool, opset: int | None) -> Graph:
    """Export `source` to `path`; what is too large for one file goes to `path`.data.

    pooled  all modules up to the embedding; else the transformer alone
    Raises UnusableInput when torch cannot express the model, or not in `opset`.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "onnx")
    _check_pooled(source, pooled)
    transformer = source.live[0]
    names, example = _example(source)
    key = POOLED if pooled else transformer.module_output_name
    answers = _Answers(list(source.live) if pooled else [transformer], names, key).eval()
    output = POOLED if pooled else _OUTPUTS.get(transformer.transformer_task, "logits")
    settings: dict[str, Any] = {} if opset is None else {"opset_version": opset}
    try:
        with quiet(), _silent(), torch.no_grad():
            program = torch.onnx.export(
                answers,
                example,
                dynamo=True,
                input_names=list(names),
                output_names=[output],
                dynamic_shapes=(tuple({0: "batch", 1: "length"} for _ in names),),
                verbose=False,
                **settings,
            )
    except Exception as error:  # whatever torch raises for a model that it cannot trace
        raise UnusableInput(f"{source.root} cannot be exported to ONNX: {_reason(error)}") from None
    assert program is not None
    written = int(program.model.opset_imports[""])
    if opset is not None and written != opset:
        raise UnusableInput(
            f"{source.root} cannot be written in operator set {opset}; torch stays at {written}.",
            hint=f"Pass --opset {written}, or leave it out.",
        )
    _strip(program.model)
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=4 * source.parameters > EXTERNAL_ABOVE)
    return Graph(path, names, output, written)


def _strip(model: Any) -> None:
    """Drop torch's notes on where each node comes from: paths of this machine, and half the size of a small graph."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in graph.all_nodes():
            node.doc_string = None
            for part in (node, *node.outputs):
                part.metadata_props.clear()


def _check_pooled(source: Source, pooled: bool) -> None:
    """Refuse what a pooled graph could not hold."""
    if not pooled:
        return
    if source.model_class != "SentenceTransformer" or not source.layout.is_sentence_transformers:
        what = "plain transformers model" if not source.layout.is_sentence_transformers else source.model_class
        raise UnusableInput(
            f"{source.root} is a {what}, which has no pooling to a dense vector.", hint="Leave out --pooled."
        )
    for module in source.live:
        if getattr(module, "include_prompt", True) is False:
            raise UnusableInput(
                f"{source.root} leaves the prompt out of its pooling, which depends on the prompt; a graph cannot.",
                hint="Leave out --pooled.",
            )


def _example(source: Source) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """Names and tensors of a small batch, as the model's tokenizer makes them."""
    texts: list[Any] = list(zip(_EXAMPLE, reversed(_EXAMPLE), strict=True))
    features = source.live.preprocess(texts if source.model_class == "CrossEncoder" else list(_EXAMPLE))
    known = source.live[0].model_forward_params
    found = {
        name: value
        for name, value in features.items()
        if isinstance(value, Tensor) and value.ndim == 2 and (known is None or name in known)
    }
    if not {"input_ids", "attention_mask"} <= found.keys():
        raise UnusableInput(f"{source.root} does not read tokens and a mask alone; only texts can be exported.")
    return tuple(found), tuple(found.values())


@contextmanager
def _silent() -> Iterator[None]:
    """torch tells of every operator of torchvision that it does not have."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)


def _reason(error: Exception) -> str:
    """The cause in one line, out of torch's page of advice."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
