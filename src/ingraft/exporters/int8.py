"""A float32 ONNX graph with int8 weights, one scale per output channel; activations are quantised as they come."""

from __future__ import annotations

import logging
from pathlib import Path

from ingraft.errors import UnusableInput, first_line
from ingraft.exporters.graph import EXTERNAL_ABOVE
from ingraft.exporters.sessions import require


def write_int8(graph: Path, output: Path) -> int:
    """Quantise `graph` into `output` and return the number of weights that became int8.

    UnusableInput when there is none, or ONNX Runtime's quantiser fails on the graph.
    """
    quantization = require("onnxruntime.quantization", "onnx")
    large = sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}*")) > EXTERNAL_ABOVE
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preprocessing that torch's exporter has done
    try:
        quantization.quantize_dynamic(
            str(graph),
            str(output),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
        )
    except Exception as error:  # whatever the quantiser raises for a graph
        reason = first_line(error)
        raise UnusableInput(f"The graph cannot be quantised: {reason}") from None
    finally:
        logging.disable(disabled)
    onnx = require("onnx", "onnx")
    model = onnx.load(str(output), load_external_data=False)
    int8: int = sum(
        tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 2 for tensor in model.graph.initializer
    )
    if not int8:
        raise UnusableInput("The graph holds no weight that ONNX Runtime can quantise.")
    return int8
