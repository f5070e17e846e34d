"""The second route: load the base, let PEFT merge, and take over only the parameters that it changed.

The adapted layer's forward pass is the truth. Where PEFT's merge does not give the same, the weights that the forward
pass amounts to are asked of it instead. Both are done in float64: decompositions magnify what float32 loses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ingraft.adapted.inject import told
from ingraft.adapted.layer import BaseLayer, effective_weight, forward_of
from ingraft.kernels.buffers import Array
from ingraft.methods.method import LayerKind
from ingraft.steps import IN_MEMORY, MergePlan

# Relative error of one answer beyond which a merge is not the forward pass.
_TOLERANCE = 1e-5


def merged_parameters(plan: MergePlan) -> Mapping[str, Array]:
    """float64 values of the parameters that the plan wants from PEFT, by the running model's names."""
    from ingraft.adapted.exact import load_exact

    wanted = {edit.parameter: edit.kind for edit in plan.edits() if edit.formula == IN_MEMORY}
    kinds = {parameter.rsplit(".", 1)[0]: kind for parameter, kind in wanted.items()}
    running = load_exact(plan)
    merged: dict[str, Tensor] = {}
    with torch.no_grad():
        for module, kind in kinds.items():
            with told(plan.adapter.name, "merge"):
                weight, bias = _merged(running.get_submodule(module), kind)
            merged[f"{module}.weight"] = weight
            if bias is not None:
                merged[f"{module}.bias"] = bias
    return {name: value.numpy() for name, value in merged.items() if name in wanted}


def _merged(adapted: Any, kind: LayerKind) -> tuple[Tensor, Tensor | None]:
    """Weight and bias that `adapted` amounts to, as the running model holds them."""
    base = adapted.get_base_layer()
    before = BaseLayer(kind, base.weight.detach().clone(), _bias(base))
    asked = _question(before)
    answer = forward_of(adapted, before)(asked)
    adapted.merge()
    if _agree(forward_of(base, before)(asked), answer):
        return base.weight.detach(), _bias(base)
    base.weight.copy_(before.weight)
    if before.bias is not None:
        base.bias.copy_(before.bias)
    adapted.merged_adapters.clear()
    return effective_weight(adapted, before)


def _question(layer: BaseLayer) -> Tensor:
    if layer.kind == "embedding":
        return torch.arange(len(layer.weight))
    width = layer.weight.shape[0] if layer.kind == "conv1d" else layer.weight[0].numel()
    return torch.randn(2, width, generator=torch.Generator().manual_seed(0), dtype=layer.weight.dtype)


def _agree(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def _bias(layer: Any) -> Tensor | None:
    bias = getattr(layer, "bias", None)
    return None if bias is None else bias.detach().clone()
