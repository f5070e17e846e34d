"""The ONNX graph as OpenVINO's intermediate representation, in float32 from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput, last_line
from ingraft.exporters.sessions import Session, require
from ingraft.files import to_json

# Without it OpenVINO computes in bfloat16 wherever the processor can, which moves answers in the third digit.
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
CONFIG = "ov_config.json"


def write_openvino(graph: Path, output: Path) -> None:
    """Convert the ONNX file `graph` to `output` (.xml, its weights beside it as .bin), and write CONFIG beside both.

    UnusableInput when OpenVINO cannot read the graph.
    """
    openvino = require("openvino", "openvino")
    try:
        # (Not convert_model: that reports its use to Intel.)
        model = openvino.Core().read_model(str(graph))
    except Exception as error:  # whatever OpenVINO raises for an operator that it does not know
        raise UnusableInput(f"The graph cannot be converted to OpenVINO: {last_line(error)}") from None
    output.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(output), compress_to_fp16=False)
    (output.parent / CONFIG).write_text(to_json(FLOAT32), encoding="utf-8")


def openvino_session(graph: Path, *, threads: int, config: Mapping[str, str] = FLOAT32) -> Session:
    """`graph` in OpenVINO on the CPU. UnusableInput when it cannot be loaded."""
    openvino = require("openvino", "openvino")
    try:
        settings = {**config, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
    except Exception as error:  # whatever the runtime raises for a file
        raise UnusableInput(f"{graph} cannot be loaded by OpenVINO: {last_line(error)}") from None
    outputs = tuple(output.get_any_name() for output in compiled.outputs)

    def run(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        found = compiled(dict(arrays))
        return {name: found[name] for name in outputs}

    return Session(tuple(value.get_any_name() for value in compiled.inputs), outputs, run)
