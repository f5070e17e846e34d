"""`--base-precision original|dequantized`: what base and adapter say about quantisation, and what follows.

A packed base has lost its original weights, so it needs the choice, and only one of the two can be had from it. A
base in original precision is merged into as it is, unless the weights that quantised training saw are asked for.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ingraft.adapter import Adapter
from ingraft.base_model import EDITABLE_DTYPES, BaseModel, quantisation_of
from ingraft.base_precision.converted import converted_layers
from ingraft.base_precision.dequantised import Dequantised
from ingraft.base_precision.layers import FLOATS, QuantisedLayer, describe, dtype_of, require_bitsandbytes, wider
from ingraft.base_precision.packed import companions, packed_layers
from ingraft.base_precision.scratch import scratch_base
from ingraft.base_precision.settings import Settings, in_words, is_bitsandbytes, trained_over
from ingraft.checkpoint import FLOAT_NAMES
from ingraft.errors import UnusableInput

BasePrecision = Literal["original", "dequantized"]

_ASSUMED: Settings = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
_PACKED_BY_OTHERS = (".qweight", ".weight_packed", ".qzeros")  # GPTQ, AWQ, compressed-tensors
_PACKED_NAME = re.compile(r"(?<![a-z])(bnb|bitsandbytes|nf4|fp4|int8|[48]-?bit)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class ChosenBase:
    """The base to merge into, how it was dequantised if it was, and what the plan should say about it."""

    model: BaseModel
    dequantised: Dequantised | None = None
    notes: tuple[str, ...] = ()


def at_precision(
    model: BaseModel,
    adapter: Adapter,
    choice: BasePrecision | None,
    *,
    weights: Sequence[str],
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> ChosenBase:
    """`model` with the weights that `choice` names. Reads headers; what is to be written is only planned.

    weights  parameters that the adapter is for
    dtype    what the merged model will be stored in (safetensors' name), or None for the base's own
    Raises UnusableInput for a packed base without a choice, and for what a base cannot give.
    """
    if is_bitsandbytes(model.config.get("quantization_config")) or companions(model.checkpoint):
        if not _has_packed_weights(model):
            raise UnusableInput(
                f"The base model {model.name} says that it is quantised with {quantisation_of(model)}, but none of "
                "its weights is packed.",
                hint="If its weights are the original ones, remove quantization_config from its config.json.",
            )
        if choice != "dequantized":
            raise _packed(model, adapter, choice)
        return _from_packed(model, dtype)
    method = quantisation_of(model)
    if method and (choice == "dequantized" or any(info.name.endswith(_PACKED_BY_OTHERS) for info in model.checkpoint)):
        raise UnusableInput(
            f"The base model {model.name} is quantised with {method}; only what bitsandbytes has packed can be "
            "dequantised.",
            hint="Pass the model in its original precision with --base.",
        )
    if choice == "dequantized":
        return _from_original(model, adapter, weights, dtype, trust_remote_code)
    if choice == "original":
        return ChosenBase(model)
    return ChosenBase(model, notes=_notes_on_original(adapter))


def _notes_on_original(adapter: Adapter) -> tuple[str, ...]:
    """What there is to say when nobody has chosen and the base has its original weights."""
    said, named = trained_over(adapter), adapter.config.base_model or ""
    if said is None and not _PACKED_NAME.search(named):
        return ()
    over = f"a base quantised with {in_words(said)}" if said is not None else f"the packed {named}"
    again = said is None or is_bitsandbytes(said)
    asked = "; --base-precision dequantized merges into what training saw" if again else ""
    return (f"trained over {over}, merged into the original weights{asked}",)


def _has_packed_weights(model: BaseModel) -> bool:
    return bool(companions(model.checkpoint)) or any(info.dtype in ("U8", "I8") for info in model.checkpoint)


def _packed(model: BaseModel, adapter: Adapter, choice: BasePrecision | None) -> UnusableInput:
    """The refusal of a packed base: without a choice, or because its original weights are gone."""
    names = [model.config.get("_name_or_path"), adapter.config.base_model]
    given = {model.name, str(model.layout.root)}
    originals = [n for n in names if isinstance(n, str) and n and n not in given and not _PACKED_NAME.search(n)]
    original = f"--base {originals[0]}" if originals else "--base ORIGINAL"
    what = f"The base model {model.name} is stored packed, quantised with {quantisation_of(model) or 'bitsandbytes'}"
    if choice == "original":
        return UnusableInput(
            f"{what}: its original weights are not in it.", hint=f"Pass the original model with {original}."
        )
    return UnusableInput(
        f"{what}: say which weights the adapter is merged into.",
        hint=f"What training saw: --base-precision dequantized\n"
        f"The original weights: --base-precision original {original}",
    )


def _from_packed(model: BaseModel, dtype: str | None) -> ChosenBase:
    given = model.config.get("quantization_config")
    settings: Settings = given if isinstance(given, Mapping) else {}
    loaded = dtype_of(model.config.get("dtype", model.config.get("torch_dtype"))) or _plain_dtype(model)
    compute = dtype_of(settings.get("bnb_4bit_compute_dtype", "float32")) or "F32"
    layers = packed_layers(model, loaded=loaded, compute=compute)
    output = loaded
    for layer in layers:
        output = wider(output, loaded if layer.kind == "int8" else layer.compute)
    kinds = sorted({describe(layer.kind, double=layer.nested_blocksize > 0) for layer in layers})
    how = f"base dequantised: {len(layers)} layers from {' and '.join(kinds)} to {FLOAT_NAMES[dtype or output]}"
    if dtype is None and output != loaded:
        how += f", which they compute in; the model is {FLOAT_NAMES[loaded]}"
    dropped = {info.name for parts in companions(model.checkpoint).values() for info in parts.values()}
    tensors = {}
    for layer in layers:
        shape = layer.shape[::-1] if layer.transposed else layer.shape
        tensors[layer.parameter] = ("F32" if layer.kind == "int8" else output, shape)
    outputs = dict.fromkeys(tensors, output)
    config = _plain_config(model.config, dtype or output)
    return _chosen(model, config, layers, tensors, frozenset(tensors), frozenset(dropped), outputs, output, how)


def _from_original(
    model: BaseModel, adapter: Adapter, weights: Sequence[str], dtype: str | None, trust_remote_code: bool
) -> ChosenBase:
    said = trained_over(adapter)
    if said is not None and not is_bitsandbytes(said):
        raise UnusableInput(
            f"The adapter {adapter.name} was trained over a base quantised with {in_words(said)}; only what "
            "bitsandbytes does to a base can be done again.",
            hint="Merge into the original weights: --base-precision original",
        )
    settings = said or _ASSUMED
    loaded = dtype_of(model.config.get("dtype", model.config.get("torch_dtype"))) or _plain_dtype(model)
    if loaded not in FLOATS:
        raise UnusableInput(f"{model.name} is {FLOAT_NAMES[loaded]}, which bitsandbytes does not quantise.")
    layers = converted_layers(model, weights, settings, loaded=loaded, trust_remote_code=trust_remote_code)
    covered: dict[str, int] = {}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    outputs: dict[str, str] = {}
    for layer in layers:
        for region in layer.regions:
            info = model.checkpoint.tensors[region.tensor]
            if info.dtype not in EDITABLE_DTYPES:
                raise UnusableInput(f"{model.name}: {info.name} is {info.dtype}, which bitsandbytes does not quantise.")
            covered[info.name] = covered.get(info.name, 0) + region.elements[1] - region.elements[0]
            tensors[info.name] = (wider(layer.dequantised, info.dtype), info.shape)
            outputs[info.name] = info.dtype if layer.kind == "int8" else tensors[info.name][0]
    whole = {name for name, count in covered.items() if count == model.checkpoint.tensors[name].elements}
    output = loaded
    for stored in outputs.values():
        output = wider(output, stored)
    how = f"base as training saw it: {len(layers)} layers quantised to {in_words(settings)} and dequantised"
    if said is None:
        how += "; assumed, since the adapter does not say how its base was quantised"
    config = model.config if (dtype or output) == loaded else _plain_config(model.config, dtype or output)
    return _chosen(model, config, layers, tensors, frozenset(whole), frozenset(), outputs, output, how)


def _chosen(
    model: BaseModel,
    config: Mapping[str, Any],
    layers: Sequence[QuantisedLayer],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    computed: frozenset[str],
    dropped: frozenset[str],
    outputs: Mapping[str, str],
    dtype: str,
    how: str,
) -> ChosenBase:
    require_bitsandbytes()  # better missed now than when the weights are written
    plain, shards = scratch_base(model, config, tensors, computed, dropped)
    folder = plain.layout.root
    done = Dequantised(model.layout.root, folder, shards, tuple(layers), outputs, dtype, how)
    return ChosenBase(plain, done, (how,))


def _plain_dtype(model: BaseModel) -> str:
    """The dtype of most elements that are not packed."""
    packed = companions(model.checkpoint)
    beside = {info.name for parts in packed.values() for info in parts.values()}
    count: dict[str, int] = {}
    for info in model.checkpoint:
        if info.name not in packed and info.name not in beside and info.dtype in FLOAT_NAMES:
            count[info.dtype] = count.get(info.dtype, 0) + info.elements
    return max(count, key=lambda dtype: count[dtype], default="F32")


def _plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """`config` of a model that is not quantised and is stored in `dtype`."""
    plain = copy.deepcopy({key: value for key, value in config.items() if key != "quantization_config"})
    key = "torch_dtype" if "torch_dtype" in plain and "dtype" not in plain else "dtype"
    for part in [plain, *(value for value in plain.values() if isinstance(value, dict))]:
        for name in ("dtype", "torch_dtype"):
            if name in part:
                part[name] = FLOAT_NAMES[dtype]
    return {**plain, key: FLOAT_NAMES[dtype]}
