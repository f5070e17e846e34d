"""Adapted modules that the live model does not have as such: fused on disk and split when loaded, or stacked experts.

The layer is adapted alone, with the stored weight as its base, and asked what weight it amounts to; its parts are then
put where the loaded model has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ingraft.adapted.keys import AdapterKeys
from ingraft.adapted.layer import BaseLayer, adapted_layer, effective_weight
from ingraft.adapted.names import Placement
from ingraft.adapted.tensors import read_tensor
from ingraft.adapter import Adapter
from ingraft.base_model import BaseModel
from ingraft.checkpoint.transfer import open_files
from ingraft.methods.method import LayerKind
from ingraft.naming.direct import layer_kind
from ingraft.naming.names import Region


def adapt_displaced(
    adapter: Adapter, keys: AdapterKeys, base: BaseModel, model: Any, displaced: Mapping[str, tuple[Placement, ...]]
) -> None:
    """Change the live parameters that `displaced` modules consist of."""
    stored = base.checkpoint.tensors
    weights = {module: stored[places[0].region.tensor] for module, places in displaced.items()}
    shapes: dict[str, tuple[LayerKind, tuple[int, ...]]] = {
        module: (layer_kind(info.name, info, base.config), info.shape) for module, info in weights.items()
    }
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for module, places in displaced.items():
        info, (kind, _) = weights[module], shapes[module]
        bias = stored.get(info.name.removesuffix("weight") + "bias")
        with open_files() as files:
            layer = BaseLayer(
                kind,
                read_tensor(files, info).float(),
                read_tensor(files, bias).float() if bias is not None else None,
            )
        adapted = adapted_layer(adapter, module, layer, shapes=shapes, keys=keys)
        weight, offset = effective_weight(adapted, layer)
        for place in places:
            _put(parameters[place.parameter], place.region, weight.reshape(-1))
            if bias is not None and offset is not None:
                name = place.parameter.removesuffix("weight") + "bias"
                _put(parameters[name], _bias_region(place.region, bias.name), offset)


def _put(parameter: Tensor, region: Region, flat: Tensor) -> None:
    """Write the stored numbers of `region` (out of `flat`, the whole stored tensor) into their live rows."""
    part = flat[slice(*region.elements)]
    rows = slice(*region.rows)
    with torch.no_grad():
        whole = parameter if region.expert is None else parameter[region.expert]
        if region.transposed:
            whole[:, rows] = part.reshape(-1, whole.shape[0]).T.to(whole.dtype)
        else:
            whole[rows] = part.reshape(whole[rows].shape).to(whole.dtype)


def _bias_region(region: Region, tensor: str) -> Region:
    """The rows of the fused bias that go with the rows of the fused weight."""
    first, last = region.rows
    return replace(region, tensor=tensor, elements=_rows_of(region), rows=(first, last))


def _rows_of(region: Region) -> tuple[int, int]:
    count = region.rows[1] - region.rows[0]
    width = (region.elements[1] - region.elements[0]) // max(count, 1)
    start = region.elements[0] // max(width, 1)
    return (start, start + count)
