"""One adapted layer alone, through PEFT: a skeleton with the base's numbers in it, adapted like the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ingraft.adapted.config import peft_config
from ingraft.adapted.inject import inject
from ingraft.adapted.keys import AdapterKeys, split_keys
from ingraft.adapted.tensors import read_tensors
from ingraft.adapter import Adapter
from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind

Forward = Callable[[Tensor], Tensor]
# The largest target's sides decide what all modules share.
_SIZED_BY_ALL = ("VERA", "PVERA", "RANDLORA")
# What a module gets depends on its place among all of them.
_PLACED_AMONG_ALL = ("TINYLORA",)


@dataclass(frozen=True)
class BaseLayer:
    """The base's numbers of one layer: `weight` as the running model has it (Conv1D: [in, out]), and its bias."""

    kind: LayerKind
    weight: Tensor
    bias: Tensor | None = None


def adapted_layer(
    adapter: Adapter,
    module: str,
    layer: BaseLayer,
    *,
    shapes: Mapping[str, tuple[LayerKind, tuple[int, ...]]] | None = None,
    keys: AdapterKeys | None = None,
) -> nn.Module:
    """`module` (as the adapter names it) with `layer` as its base, adapted by PEFT, in eval mode.

    shapes  kind and weight shape of all adapted modules, in the order of the running model; needed by the methods that
            share something between modules
    """
    keys = keys or split_keys(adapter)
    kind = adapter.config.peft_type
    _check_possible(adapter, module)
    if kind in (*_SIZED_BY_ALL, *_PLACED_AMONG_ALL) and module not in (shapes or {}):
        raise ValueError(f"{kind} shares tensors between modules: the shapes of all of them are needed")
    skeleton = nn.Module()
    companions = _companions(adapter, module, shapes or {})
    for name in companions if module in companions else [module]:
        _put(skeleton, name, _base_module(layer) if name == module else companions[name])
    names = {name: name for name in (companions if module in companions else [module])}
    tuned, tokens = keys.tuned.get(module, {}), keys.tokens.get(module, {})
    if not tuned:
        names = {}
    config = peft_config(adapter, names, tokens={module: module} if tokens else None)
    state = {f"base_model.model.{module}.{tail}": key for tail, key in {**tuned, **tokens}.items()}
    state |= {f"base_model.{name}": key for name, key in keys.shared.items()}
    if kind == "ADALORA" and config.rank_pattern:
        config.rank_pattern = {k: v for k, v in config.rank_pattern.items() if k == f"{module}.lora_E"} or None
    inject(skeleton, config, read_tensors(adapter, state), who=adapter.name, only=module)
    return skeleton.get_submodule(module).requires_grad_(False)


def forward_of(adapted: nn.Module, layer: BaseLayer) -> Forward:
    """The adapted layer as a function: rows [n, in] → [n, out]; for an embedding ids [n] → rows [n, d]."""

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            if layer.kind == "conv":
                result: Tensor = adapted(x.reshape(-1, *layer.weight.shape[1:])).flatten(1)
            elif layer.kind in ("embedding", "norm"):
                result = adapted(x)
            else:
                result = adapted(x[:, None, :])[:, 0, :]
        return result

    return forward


def effective_weight(adapted: nn.Module, layer: BaseLayer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias that the adapted layer amounts to, asked of its forward: W = f(1) − f(0), b = f(0)."""
    forward = forward_of(adapted, layer)
    if layer.kind == "embedding":
        return forward(torch.arange(layer.weight.shape[0])), None
    if layer.kind == "norm":
        raise UnusableInput("A normalisation layer that the model loads in parts is not supported.")
    width = layer.weight.shape[0] if layer.kind == "conv1d" else layer.weight[0].numel()
    zero = forward(torch.zeros(1, width, dtype=layer.weight.dtype))
    columns = forward(torch.eye(width, dtype=layer.weight.dtype)) - zero
    weight = columns if layer.kind == "conv1d" else columns.T.reshape(layer.weight.shape)
    return weight.contiguous(), zero[0]


def _check_possible(adapter: Adapter, module: str) -> None:
    """FRoD decomposes all weights of a category together; Uni-LoRA deals its indices out over all modules."""
    kind = adapter.config.peft_type
    if kind == "FROD" or (kind == "UNILORA" and not adapter.config.raw.get("save_indices", False)):
        raise UnusableInput(f"{adapter.name}: {module} cannot be built alone: {kind} needs every layer of the base.")


def _companions(
    adapter: Adapter, module: str, shapes: Mapping[str, tuple[LayerKind, tuple[int, ...]]]
) -> dict[str, nn.Module]:
    """The other modules that the skeleton needs, as cheap as they can be, in the running model's order."""
    kind = adapter.config.peft_type
    if kind in _PLACED_AMONG_ALL:
        return {name: _tiny(layer_kind) for name, (layer_kind, _) in shapes.items()}
    if kind in _SIZED_BY_ALL:
        seen: dict[tuple[LayerKind, tuple[int, ...]], str] = {}
        for name, shape in shapes.items():
            seen.setdefault(shape, name)
        kept = {*seen.values(), module}
        return {name: _hollow(*shape) for name, shape in shapes.items() if name in kept}
    return {}


def _base_module(layer: BaseLayer) -> nn.Module:
    weight, bias = layer.weight, layer.bias
    made = _hollow(layer.kind, tuple(weight.shape), bias=bias is not None)
    made.weight = nn.Parameter(weight, requires_grad=False)
    if layer.kind == "conv1d" and bias is None:
        bias = torch.zeros(weight.shape[1], dtype=weight.dtype)  # transformers' Conv1D always has one
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def _tiny(kind: LayerKind) -> nn.Module:
    return nn.Embedding(1, 1) if kind == "embedding" else _hollow(kind, (1, 1))


def _hollow(kind: LayerKind, shape: tuple[int, ...], *, bias: bool = False) -> nn.Module:
    """A layer of this shape whose weight is one zero, shown many times."""
    made: Any
    with torch.device("meta"):
        if kind == "embedding":
            made = nn.Embedding(shape[0], shape[1])
        elif kind == "conv1d":
            from transformers.pytorch_utils import Conv1D

            made = Conv1D(shape[1], shape[0])  # type: ignore[no-untyped-call]
            if not bias:
                made.bias = None
        elif kind == "conv":
            layer: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
            made = layer(shape[1], shape[0], shape[2:], bias=bias)
        elif kind == "norm":
            made = nn.LayerNorm(shape[0], bias=bias)
        else:
            made = nn.Linear(shape[1], shape[0], bias=bias)
    made.weight = nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)
    module: nn.Module = made
    return module


def _put(root: nn.Module, name: str, module: nn.Module) -> None:
    """Hang `module` below `root` under its dotted name."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]  # type: ignore[assignment]
    root.add_module(last, module)
