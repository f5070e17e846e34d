"""Is the merged model the one that was trained? Weights are asked of the live adapted layers, never of PEFT's merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from conformance.architectures import inputs
from helpers.files import stored_tensors
from helpers.models import is_nearest

FLOAT32_UNIT = 2.0**-24
SMALLEST = 2.0**-24  # of float16
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def in_float64(live: nn.Module) -> nn.Module:
    """A live model that computes in float64 from now on."""
    for module in live.modules():
        if isinstance(module, BaseTunerLayer) and isinstance(getattr(module, "dtype", None), torch.dtype):
            module.dtype = torch.float64  # AdaMSS
        config: Any = getattr(module, "config", None)
        if hasattr(config, "_experts_implementation"):
            config._experts_implementation = "eager"  # grouped kernels know no float64
    return live.double()


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


def check_parameters(
    merged: nn.Module, base: nn.Module, exact: Mapping[str, Tensor], *, noise: float, remains: bool = False
) -> set[str]:
    """Every parameter is the exact one, rounded once, in the base's dtype. Returns the names of those that changed.

    noise    float32 units, of a row's largest number, that a result may be off before it is rounded
    remains  the method rounds what remains of a half-precision base, and its last float32 digits decide how
    """
    found, before = parameters(merged), parameters(base)
    assert found.keys() == exact.keys()
    changed = set()
    for name, value in exact.items():
        number, start = found[name], before.get(name)
        assert number.shape == value.shape, name
        if start is not None and start.shape == value.shape:
            assert number.dtype == start.dtype, name
            if torch.equal(start.double(), value):
                assert torch.equal(number, start), f"{name} is not the base's"
                continue
            largest = torch.maximum(_largest(value), _largest(start.double()))
        else:
            largest = _largest(value)
        changed.add(name)
        _check_numbers(name, number, value, largest, noise, remains and number.dtype != torch.float32)
    return changed


def _check_numbers(name: str, number: Tensor, exact: Tensor, largest: Tensor, noise: float, remains: bool) -> None:
    """Half a unit of the stored dtype, and `noise`; the nearest number, but where `noise` reaches the middle of two."""
    unit = torch.finfo(number.dtype).eps
    error, slack = (number.double() - exact).abs(), largest * FLOAT32_UNIT * noise
    beyond = error > (exact.abs() * unit).clamp_min(SMALLEST) / 2 * 1.001 + slack
    # How often noise reaches a middle, for numbers near the largest; and a few, for small tensors.
    allowed = max(1e-4, 2 * noise * FLOAT32_UNIT / unit) * number.numel() + 5
    if remains:
        assert not (error > 2 * unit * largest).any(), f"{name} is off by more than two units"
        assert int(beyond.sum()) <= 4 * allowed, f"{int(beyond.sum())} of {number.numel()} of {name} are off"
        return
    worst = float((error / (exact.abs() * unit / 2 + slack).clamp_min(SMALLEST / 2)).max())
    assert not beyond.any(), f"{int(beyond.sum())} of {number.numel()} of {name} are off, by {worst:.3g} of what may be"
    if number.dtype != torch.float32:
        second = int((~is_nearest(number, exact)).sum())
        assert second <= allowed, f"{second} of {number.numel()} of {name} are not the nearest {number.dtype}"


def _largest(value: Tensor) -> Tensor:
    """Of every row, or of a whole vector."""
    dimensions = tuple(range(1, value.dim())) or (0,)
    return value.abs().amax(dimensions, keepdim=True)


def check_files(merged: Path, base: Path, changed: int, *, may_add: frozenset[str] = frozenset()) -> None:
    """Names, dtypes and shapes are those of the base's files; exactly `changed` numbers of them are not the base's."""
    before, after = stored_tensors(base), stored_tensors(merged)
    assert set(before) <= set(after) <= set(before) | may_add
    differing = 0
    for name, (dtype, shape, content) in before.items():
        assert after[name][:2] == (dtype, shape), name
        if content != after[name][2]:
            rows = [torch.frombuffer(bytearray(x), dtype=torch.uint8) for x in (content, after[name][2])]
            count = torch.Size(shape).numel()
            differing += int((rows[0] != rows[1]).reshape(count, -1).any(1).sum())
    assert differing == changed


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """By all their names, tied ones too."""
    return {name: parameter.detach() for name, parameter in model.named_parameters(remove_duplicate=False)}


def count_changed(merged: nn.Module, base: nn.Module) -> int:
    """Numbers of the base that differ in the merged model, tied ones once."""
    after = parameters(merged)
    return sum(int((after[name] != value.detach()).sum()) for name, value in base.named_parameters())


def tied_names(model: nn.Module) -> frozenset[str]:
    """Names of parameters that have another one already."""
    return frozenset(parameters(model)) - {name for name, _ in model.named_parameters()}


TEXTS = ["the query word in a model", "fever cough and pain without diabetes", "left hand or right foot", "text"]


def outputs(model: Any, architecture: str) -> Tensor:
    """What a transformers model or a Sentence Transformers one (of any class) makes of the same inputs."""
    with torch.no_grad():
        if not hasattr(model, "preprocess"):
            found: Tensor = model(**inputs(architecture))[0]
            return found
        pairwise = type(model).__name__ == "CrossEncoder"
        features = model(model.preprocess([(text, TEXTS[0]) for text in TEXTS] if pairwise else TEXTS))
    found = features["scores" if pairwise else "sentence_embedding"]
    return found.to_dense()


def error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖"""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
