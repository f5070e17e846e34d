"""Run a written graph, and let a live Sentence Transformers model answer with it in place of its transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput, first_line

POOLED = "sentence_embedding"
# Where a graph lies beside the transformer: as Sentence Transformers looks for it.
GRAPHS = {"onnx": Path("onnx", "model.onnx"), "openvino": Path("openvino", "openvino_model.xml")}


@dataclass(frozen=True)
class Session:
    """A loaded graph.

    inputs   names of its int64 inputs [batch, length]
    outputs  names of its float32 outputs; a pooled graph has POOLED alone
    run      {input: array} → {output: array}
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Mapping[str, Any]], Mapping[str, Any]]

    @property
    def pooled(self) -> bool:
        return POOLED in self.outputs


def onnx_session(graph: Path, *, threads: int) -> Session:
    """`graph` in ONNX Runtime on the CPU. UnusableInput when it cannot be loaded."""
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors; a warning about unused initialisers helps nobody
    # Spinning threads starve each other, and torch's, on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        loaded = runtime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the runtime raises for a file
        raise UnusableInput(f"{graph} cannot be loaded by ONNX Runtime: {first_line(error)}") from None
    outputs = tuple(output.name for output in loaded.get_outputs())

    def run(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(zip(outputs, loaded.run(None, dict(arrays)), strict=True))

    return Session(tuple(value.name for value in loaded.get_inputs()), outputs, run)


def use_session(live: Any, session: Session) -> None:
    """Let `live` compute with `session` from now on: its tokenizer, prompts and other modules stay its own."""
    import torch

    transformer, *others = list(live)
    key = POOLED if session.pooled else transformer.module_output_name
    output = POOLED if session.pooled else session.outputs[0]

    def forward(features: dict[str, Any], **_: Any) -> dict[str, Any]:
        arrays = {name: features[name].cpu().numpy() for name in session.inputs}
        # A copy: onnxruntime's arrays may not be written to, and modules work in place.
        features[key] = torch.from_numpy(session.run(arrays)[output].copy())
        return features

    def unchanged(features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return features

    transformer.forward = forward
    for module in others if session.pooled else ():
        module.forward = unchanged


@contextmanager
def answering(live: Any, session: Session) -> Iterator[None]:
    """`live` computes with `session` while the block runs."""
    use_session(live, session)
    try:
        yield
    finally:
        for module in live:
            module.__dict__.pop("forward", None)


def require(package: str, extra: str) -> Any:
    """The module `package`, or UnusableInput that names the extra it comes with."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise UnusableInput(
            f"This needs the package {package}, which is not installed.", hint=f"Run: pip install 'ingraft[{extra}]'"
        ) from None
