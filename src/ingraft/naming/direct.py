"""Names that fit the checkpoint as they are, or after one prefix is taken off or put on. Loads no library."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ingraft.adapter.grouping import runtime_name
from ingraft.checkpoint import Checkpoint, TensorInfo
from ingraft.methods.method import LayerKind
from ingraft.naming.names import Names, Region

# Architectures whose linear layers are transformers' Conv1D: weights are stored as [in, out].
CONV1D_MODEL_TYPES = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "trajectory_transformer"}
_CONV1D_LAYERS = {"c_attn", "c_proj", "c_fc", "q_attn"}
_LONGEST_PREFIX = 4  # parts of a name, as in `model.language_model.encoder.layers`
_LEGACY = ((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias"))

Change = tuple[str, str]  # (prefix to take off, prefix to put on)


def direct_names(
    parameters: Sequence[str], optional: Sequence[str], checkpoint: Checkpoint, config: Mapping[str, Any]
) -> Names:
    """Find `parameters` (all by one change of prefix) and `optional` ones (by the same change, or as they are).

    Parameters that no single change finds are `missing`; whether that is an error is the caller's to say.
    """
    stored = {_plain(name): name for name in checkpoint.tensors}
    change = common_change(parameters, stored)
    found: dict[str, str] = {}
    for parameter in [*parameters, *optional]:
        for candidate in ([apply_change(change, parameter)] if change else []) + [parameter]:
            if candidate is not None and candidate in stored:
                found[parameter] = stored[candidate]
                break
    tensors = {parameter: checkpoint.tensors[name] for parameter, name in found.items()}
    return Names(
        regions={parameter: (Region.whole(info, info.shape),) for parameter, info in tensors.items()},
        missing=tuple(p for p in [*parameters, *optional] if p not in found),
        shapes={parameter: info.shape for parameter, info in tensors.items()},
        kinds={
            parameter.removesuffix(".weight"): layer_kind(parameter, info, config)
            for parameter, info in tensors.items()
            if parameter.endswith(".weight")
        },
        how=_describe(change),
    )


def layer_kind(parameter: str, info: TensorInfo, config: Mapping[str, Any]) -> LayerKind:
    """What kind of layer has this weight, told by its shape, its name and the model type."""
    dimensions, module = len(info.shape), parameter.removesuffix(".weight").rsplit(".", 1)[-1]
    if dimensions == 1:
        return "norm"
    if dimensions > 2:
        return "conv"
    if config.get("model_type") in CONV1D_MODEL_TYPES and module in _CONV1D_LAYERS:
        return "conv1d"
    return "embedding" if is_embedding_name(parameter) else "linear"


def is_embedding_name(parameter: str) -> bool:
    """Does the name say that this is a table of embeddings?"""
    module = parameter.removesuffix(".weight").rsplit(".", 1)[-1]
    return bool(re.fullmatch(r"(?!.*proj)(.*embed.*|wte|wpe|shared|tok_emb|tokens_embed)", module))


def _plain(name: str) -> str:
    name = runtime_name(name)
    for old, new in _LEGACY:
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def common_change(parameters: Sequence[str], stored: Mapping[str, str]) -> Change | None:
    """The change of prefix under which every parameter is stored: none if possible, else the only one there is."""
    if not parameters or all(parameter in stored for parameter in parameters):
        return ("", "")
    ends: dict[str, set[str]] = {}
    for name in stored:
        for prefix, rest in _splits(name):
            ends.setdefault(rest, set()).add(prefix)
    common: set[Change] | None = None
    for parameter in parameters:
        changes: set[Change] = {("", "")} if parameter in stored else set()
        changes |= {("", prefix) for prefix in ends.get(parameter, ())}
        changes |= {(prefix, "") for prefix, rest in _splits(parameter) if rest in stored}
        common = changes if common is None else common & changes
        if not common:
            return None
    return next(iter(common)) if common and len(common) == 1 else None


def _splits(name: str) -> Iterable[tuple[str, str]]:
    """(prefix with its dot, rest) for the first few dots of `name`."""
    parts = name.split(".")
    for count in range(1, min(_LONGEST_PREFIX, len(parts) - 2) + 1):
        yield ".".join(parts[:count]) + ".", ".".join(parts[count:])


def apply_change(change: Change, parameter: str) -> str | None:
    off, on = change
    return on + parameter.removeprefix(off) if parameter.startswith(off) else None


def _describe(change: Change | None) -> str:
    if change is None:
        return "names do not fit as they are"
    off, on = change
    if off:
        return f"names fit without {off.rstrip('.')}"
    return f"names fit below {on.rstrip('.')}" if on else "names fit as they are"
