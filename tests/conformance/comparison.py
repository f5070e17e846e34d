"""Is the merged model the one that was trained? Weights are asked of the live adapted layers, never of PEFT's merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers.files import stored_tensors
from helpers.models import is_nearest

SMALLEST = 2.0**-24  # of float16
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def exact_parameters(live: nn.Module) -> dict[str, Tensor]:
    """Every parameter that the unmerged model amounts to, in float64, by the plain model's names.

    live  in float64; a linear layer is asked for W = f(1) − f(0) and b = f(0)
    """
    with torch.no_grad():
        return {name: value.detach().clone() for name, value in _parameters(live, "")}


def _parameters(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(module, (BaseTunerLayer, TrainableTokensWrapper)):
        for name, value in _adapted(module).items():
            yield prefix + name, value
        return
    if isinstance(module, ModulesToSaveWrapper):
        yield from _parameters(module.modules_to_save[module.active_adapters[0]], prefix)
        return
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, child in module._modules.items():
        if child is not None:
            yield from _parameters(child, f"{prefix}{name}.")


def _adapted(layer: Any) -> dict[str, Tensor]:
    base = layer
    while not isinstance(base, nn.Module) or hasattr(base, "base_layer") or hasattr(base, "original_module"):
        base = base.base_layer if hasattr(base, "base_layer") else base.original_module
    found = dict(_parameters(base, ""))
    if hasattr(layer, "ln_tuning_layers"):
        return dict(_parameters(layer.ln_tuning_layers[layer.active_adapters[0]], ""))
    if type(layer).__name__ == "ParamWrapper":
        while type(layer).__name__ == "ParamWrapper":
            with layer._activate_lora(layer.active_adapters):
                found[layer.parameter_name] = layer.get_param()
            layer = layer.base_layer
        return found
    if isinstance(base, nn.Embedding):
        scale = getattr(base, "embed_scale", 1.0)
        return {**found, "weight": layer(torch.arange(base.num_embeddings)[None])[0] / scale}
    if isinstance(base, CONVOLUTIONS):
        shape = base.weight.shape[1:]
        zero = layer(torch.zeros(1, *shape, dtype=torch.float64)).flatten(1)
        columns = layer(torch.eye(shape.numel(), dtype=torch.float64).reshape(-1, *shape)).flatten(1) - zero
        weight = columns.T.reshape(base.weight.shape)
    else:
        width = base.weight.shape[0 if isinstance(base, Conv1D) else 1]
        zero = layer(torch.zeros(1, 1, width, dtype=torch.float64))[:, 0]
        columns = layer(torch.eye(width, dtype=torch.float64)[:, None])[:, 0] - zero
        weight = columns if isinstance(base, Conv1D) else columns.T
    if base.bias is None:
        assert not zero.any(), "the adapted layer has a bias, its base has none"
        return {**found, "weight": weight}
    return {**found, "weight": weight, "bias": zero[0]}


@dataclass(frozen=True)
class Rounding:
    """How far merged parameters may be from the exact ones, beside being rounded once.

    noise    float32 units of the row's largest number
    nearest  share of half-precision numbers that have to be the nearest one (small models: but for four)
    """

    noise: float = 8.0
    nearest: float = 0.9999


def check_parameters(merged: nn.Module, base: nn.Module, exact: Mapping[str, Tensor], rounding: Rounding) -> set[str]:
    """Every parameter is the exact one, rounded once, in the base's dtype. Returns the names of those that changed."""
    found = dict(merged.named_parameters(remove_duplicate=False))
    before = dict(base.named_parameters(remove_duplicate=False))
    assert found.keys() == exact.keys()
    changed, second_nearest, elements = set(), 0, 0
    for name, value in exact.items():
        number = found[name].detach()
        if name in before:
            assert number.dtype == before[name].dtype, name
        if name in before and before[name].shape == value.shape and torch.equal(before[name].double(), value):
            assert torch.equal(number, before[name]), f"{name} is not the base's"
            continue
        changed.add(name)
        assert number.shape == value.shape, name
        largest = _largest(value)
        if name in before and before[name].shape == value.shape:
            largest = torch.maximum(largest, _largest(before[name].double()))
        half_unit = (value.abs() * torch.finfo(number.dtype).eps).clamp_min(SMALLEST) / 2
        allowed = half_unit * 1.001 + largest * 2.0**-24 * rounding.noise
        worst = float(((number.double() - value).abs() / allowed.clamp_min(1e-30)).max())
        assert worst <= 1.0, f"{name} is off by {worst:.3g} of what is allowed"
        if number.dtype != torch.float32:
            second_nearest += int((~is_nearest(number, value)).sum())
            elements += number.numel()
    spare = 4 if elements < 1_000_000 else 0
    assert second_nearest <= (1 - rounding.nearest) * elements + spare, f"{second_nearest} of {elements} are not nearest"
    return changed


def _largest(value: Tensor) -> Tensor:
    """Of every row, or of a whole vector."""
    dimensions = tuple(range(1, value.dim())) or (0,)
    return value.abs().amax(dimensions, keepdim=True)


def check_files(merged: Path, base: Path, changed: int, *, added: frozenset[str] = frozenset()) -> None:
    """Names, dtypes and shapes are those of the base's files; exactly `changed` numbers of them are not the base's."""
    before, after = stored_tensors(base), stored_tensors(merged)
    assert set(after) == set(before) | added
    differing = 0
    for name, (dtype, shape, content) in before.items():
        assert after[name][:2] == (dtype, shape), name
        size = len(content) // max(1, torch.Size(shape).numel())
        pieces = zip(_pieces(content, size), _pieces(after[name][2], size), strict=True)
        differing += sum(one != other for one, other in pieces) if content != after[name][2] else 0
    assert differing == changed


def _pieces(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def count_changed(merged: nn.Module, base: nn.Module) -> int:
    """Numbers that differ in two models of one class."""
    before = dict(base.named_parameters())
    return sum(int((before[name] != value).sum()) for name, value in merged.named_parameters())


def error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖"""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


TEXTS = ["the query word in a model", "fever cough and pain without diabetes", "left hand or right foot", "text"]


def outputs(model: Any, architecture: str) -> Tensor:
    """What a transformers model or a Sentence Transformers one (of any class) makes of the same inputs."""
    with torch.no_grad():
        if not hasattr(model, "preprocess"):
            return model(**inputs(architecture))[0]
        found = model(model.preprocess([(text, TEXTS[0]) for text in TEXTS] if is_pairwise(model) else TEXTS))
    return found["scores"] if is_pairwise(model) else found["sentence_embedding"].to_dense()


def is_pairwise(model: Any) -> bool:
    return type(model).__name__ == "CrossEncoder"
