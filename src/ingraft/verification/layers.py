"""Layer by layer: what PEFT's layer answers in the running adapted model, against the same layer of the merged one.

Nothing here is taken from the plan. Which layer is meant, where its numbers lie in the file and how they are turned
is decided by transformers, which loads both models; the scale by PEFT. So a merge that follows a wrong plan in every
step, and passes the probes that follow the same plan, differs here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ingraft.adapter import AdapterConfig
from ingraft.verification.probe import FLOAT32_UNIT, ROW_LIMIT
from ingraft.verification.report import Check

_Rows: TypeAlias = NDArray[numpy.float64]
_IDS = 8192  # of an embedding, at a time
# PEFT's layers compute in another order, some with inverses: as much more than plain float32 sums as the probes allow.
_NOISE = 16.0


def roundings_of(config: AdapterConfig) -> int:
    """How often a merge into the base's dtype rounds a weight; 0 where the answers cannot be compared at all.

    Where PEFT takes a part out of the base first, it rounds what remains to the base's dtype. FRoD solves for its basis
    in that dtype, so badly conditioned that the numbers of another one are others.
    """
    if config.peft_type == "FROD":
        return 0
    starts_from_base = isinstance(config.raw.get("init_lora_weights"), str) or config.raw.get("kasa_config")
    return 2 if starts_from_base or config.peft_type == "OSF" else 1


@dataclass(frozen=True)
class LayerAnswer:
    """What one layer answers to a random input.

    product  [out]: f(x) − f(0), for an embedding its rows times x
    offset   [out]: f(0), which is the bias
    squares  [out]: Σⱼ (wᵢⱼ·xⱼ)², what rounding of the weights is measured by
    width    how many numbers a sum is over
    """

    product: _Rows
    offset: _Rows
    squares: _Rows
    width: int


def answers_of(model: nn.Module, names: Iterable[str]) -> dict[str, LayerAnswer]:
    """The answers of the layers that `names` (modules, and parameters of modules) stand for in `model`.

    Left out: what is no linear layer, convolution, embedding or norm, as a stack of experts.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    found = {}
    with torch.inference_mode():
        for name in names:
            owner = name if name in modules and name not in parameters else name.rpartition(".")[0]
            if owner not in found and (answer := _answer(model, owner)) is not None:
                found[owner] = answer
    return found


def compare_layers(
    adapted: Mapping[str, Mapping[str, LayerAnswer]],
    merged: Mapping[str, Mapping[str, LayerAnswer]],
    *,
    unit: float,
    roundings: int = 1,
) -> Check:
    """Both by the transformer's folder and the layer's name.

    unit       of the coarsest dtype that the model stores
    roundings  how often a weight was rounded to it on the way
    """
    error = unit * math.sqrt(roundings)
    ratios = {
        f"{folder}/{name}" if folder else name: _ratio(answer, merged.get(folder, {}).get(name), error)
        for folder, answers in adapted.items()
        for name, answer in answers.items()
    }
    beyond = sorted((name for name in ratios if not ratios[name] <= 1.0), key=lambda name: -ratios[name])
    return Check(
        "layers",
        not beyond,
        "each adapted layer of the running model, asked through PEFT, against the same layer of the merged one, as a "
        "share of what rounding allows",
        max(ratios.values(), default=0.0),
        1.0,
        ", ".join(beyond[:3]),
    )


def _ratio(adapted: LayerAnswer, merged: LayerAnswer | None, unit: float) -> float:
    """The larger of two error measures, as a share of its limit: as in the probes of the stored tensors."""
    if merged is None or merged.product.shape != adapted.product.shape:
        return float("inf")
    scale = merged.squares + (merged.product**2 + adapted.product**2) / merged.width
    arithmetic = (_NOISE * FLOAT32_UNIT) ** 2
    products = _measure(
        merged.product - adapted.product,
        merged.squares * unit**2 / 3 + scale * arithmetic * (merged.width + 16) + 1e-37,
    )
    # A single number is off by at most its unit, and not by a part of many.
    bias = merged.offset**2
    offsets = _measure(
        merged.offset - adapted.offset,
        bias * unit**2 + (bias + scale) * arithmetic + 1e-37,
    )
    ratio = max(products, offsets)
    return float("inf") if math.isnan(ratio) else ratio


def _measure(error: _Rows, variance: _Rows) -> float:
    relative = error**2 / variance
    worst = math.sqrt(relative.max()) / ROW_LIMIT
    mean = math.sqrt(relative.mean()) / (1.0 + 3.0 / math.sqrt(2.0 * relative.size))
    return worst if math.isnan(worst) else max(worst, mean)


def _answer(model: nn.Module, name: str) -> LayerAnswer | None:
    layer: Any = _through_wrappers(model, name)
    plain: Any = _plain(layer)
    weight: Tensor | None = getattr(plain, "weight", None)
    if not isinstance(weight, Tensor) or not weight.numel():
        return None
    if isinstance(plain, nn.Embedding):
        return _of_embedding(layer, weight, name)
    if weight.ndim == 1:
        return _of_norm(layer, weight, name)
    if isinstance(plain, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        if getattr(plain, "groups", 1) != 1:
            return None
        x = _input(name, weight[0].numel())
        both = layer(torch.stack([x, torch.zeros_like(x)]).reshape(2, *weight.shape[1:])).flatten(1)
        return _linear(both, weight.flatten(1), x)
    if type(plain).__name__ == "Conv1D":
        weight = weight.T
    elif not isinstance(plain, nn.Linear):
        return None
    x = _input(name, weight.shape[1])
    both = layer(torch.stack([x, torch.zeros_like(x)])[:, None, :])[:, 0, :]
    return _linear(both, weight, x)


def _linear(both: Tensor, weight: Tensor, x: Tensor) -> LayerAnswer:
    """both: [2, out], the answers to x and to nothing."""
    squares = torch.cat([part.square() @ x.square() for part in torch.split(weight, 4096)])
    return LayerAnswer(_wide(both[0] - both[1]), _wide(both[1]), _wide(squares), x.numel())


def _of_embedding(layer: Any, weight: Tensor, name: str) -> LayerAnswer:
    x = _input(name, weight.shape[1])
    parts = [layer(ids) for ids in torch.split(torch.arange(weight.shape[0]), _IDS)]
    product = torch.cat([part @ x for part in parts])
    squares = torch.cat([part.square() @ x.square() for part in parts])
    return LayerAnswer(_wide(product), numpy.zeros(len(product)), _wide(squares), x.numel())


def _of_norm(layer: Any, weight: Tensor, name: str) -> LayerAnswer:
    x = _input(name, weight.shape[0])
    answer, offset = layer(torch.stack([x, torch.zeros_like(x)]))
    product = _wide(answer - offset)
    return LayerAnswer(product, _wide(offset), product**2, 1)


def _wide(values: Tensor) -> _Rows:
    found: _Rows = values.double().numpy()
    return found


def _input(name: str, width: int) -> Tensor:
    """The same for the same layer in both processes."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def _through_wrappers(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`, where PEFT may have put a trained copy in the place of one that it lies in."""
    module: Any = model
    for part in name.split(".") if name else ():
        module = getattr(_trained(module), part)
    found: nn.Module = _trained(module)
    return found


def _trained(module: Any) -> Any:
    """The copy of a module that is saved whole (modules_to_save); any other module itself."""
    copies = getattr(module, "modules_to_save", None)
    return copies["default"] if isinstance(copies, nn.ModuleDict) and "default" in copies else module


def _plain(module: Any) -> Any:
    """The layer below PEFT's."""
    for inner in _inner(module):
        module = inner
    return module


def _inner(module: Any) -> Iterator[Any]:
    while True:
        if hasattr(module, "get_base_layer"):
            module = module.get_base_layer()
        elif hasattr(module, "original_module"):
            module = module.original_module
        else:
            return
        yield module
