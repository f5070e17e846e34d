"""Which layers of a base in original precision transformers and bitsandbytes quantise when they load it.

transformers is asked itself: its quantiser runs on the model that training loads, built without numbers. It leaves
out what it always does (the output layer, tied weights, modules kept in float32) and what the config names.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.base_model import BaseModel
from ingraft.base_precision.layers import NESTED_BLOCKSIZE, Kind, QuantisedLayer, dtype_of, require_bitsandbytes
from ingraft.errors import UnusableInput

_KEYS = (
    "load_in_8bit", "load_in_4bit", "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
)  # fmt: skip


def converted_layers(
    model: BaseModel, weights: Sequence[str], settings: Mapping[str, Any], *, loaded: str, trust_remote_code: bool
) -> tuple[QuantisedLayer, ...]:
    """The layers of `model` that training over it saw quantised as `settings` (of a BitsAndBytesConfig) say.

    weights  parameters that the adapter is for; their names tell whether training loaded the model with its head
    """
    if importlib.util.find_spec("transformers") is None:
        raise UnusableInput(
            f"Which layers of {model.name} training saw quantised is told by transformers, which is not installed.",
            hint="Install it with: pip install 'ingraft[verify,quantized]'",
        )
    require_bitsandbytes()
    from ingraft.naming.meta import runtime_model
    from ingraft.naming.runtime_class import build_meta_model

    config = _config(settings)
    kind: Kind = "int8" if config.load_in_8bit else "fp4" if config.bnb_4bit_quant_type == "fp4" else "nf4"
    compute = dtype_of(config.bnb_4bit_compute_dtype) if "bnb_4bit_compute_dtype" in settings else None
    runtime = runtime_model(model, trust_remote_code=trust_remote_code)
    head = False
    if not set(weights) <= set(runtime.shapes):
        with_head = runtime_model(model, trust_remote_code=trust_remote_code, head=True)
        head = set(weights) <= set(with_head.shapes)
        runtime = with_head if head else runtime
    meta = build_meta_model(model, trust_remote_code=trust_remote_code, head=head)
    layers = []
    for module in _quantised_modules(meta, config):
        parameter = f"{module}.weight"
        regions = runtime.regions.get(parameter, ())
        if parameter in runtime.unclear or any(region.transposed or region.expert is not None for region in regions):
            raise UnusableInput(f"{model.name}: {parameter} is stored in a form that cannot be quantised again.")
        if not regions:
            continue  # a layer that the checkpoint does not hold
        transposed = runtime.kinds.get(module) == "conv1d"
        rows, columns = runtime.shapes[parameter]
        layers.append(
            QuantisedLayer(
                parameter=parameter,
                kind=kind,
                shape=(columns, rows) if transposed else (rows, columns),
                transposed=transposed,
                regions=regions,
                loaded=loaded,
                compute=compute or loaded,
                nested_blocksize=NESTED_BLOCKSIZE if kind != "int8" and config.bnb_4bit_use_double_quant else 0,
            )
        )
    if not layers:
        raise UnusableInput(f"{model.name} has no layer that bitsandbytes would quantise.")
    return tuple(layers)


def _config(settings: Mapping[str, Any]) -> Any:
    import transformers

    build: Any = transformers.BitsAndBytesConfig
    chosen = {key: settings[key] for key in _KEYS if key in settings}
    for key in ("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage"):
        if isinstance(chosen.get(key), str):
            chosen[key] = chosen[key].removeprefix("torch.")
    try:
        config = build(**chosen)
    except (TypeError, ValueError, AttributeError) as error:
        raise UnusableInput(f"The adapter's quantization_config cannot be used: {error}") from None
    if config.quantization_method() is None:
        raise UnusableInput(f"The adapter's quantization_config names no quantisation that bitsandbytes has: {chosen}")
    return config


def _quantised_modules(meta: Any, config: Any) -> list[str]:
    """Names of the modules that transformers' own quantiser exchanges in `meta`."""
    from ingraft.base_precision.arithmetic import quiet_bitsandbytes

    quiet_bitsandbytes()
    layers: Any = importlib.import_module("bitsandbytes.nn")
    quantizers: Any = importlib.import_module("transformers.quantizers.auto")
    quantizer = quantizers.AutoHfQuantizer.from_config(config, pre_quantized=False)
    quantizer.preprocess_model(model=meta, device_map={"": "cpu"})
    exchanged = (layers.Linear4bit, layers.Linear8bitLt)
    return [name for name, module in meta.named_modules() if isinstance(module, exchanged)]
