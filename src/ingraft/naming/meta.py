"""The class that loads the model, built on the `meta` device: its parameters, and where the checkpoint keeps them.

transformers renames, splits and stacks stored tensors while it loads. Its own conversion is run here on tensors of
row numbers instead of weights; where each number comes out tells which stored rows a parameter consists of.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingraft.adapter.grouping import runtime_name
from ingraft.base_model import BaseModel
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind
from ingraft.naming.direct import apply_change, common_change
from ingraft.naming.names import Names, Region
from ingraft.naming.runtime_class import build_meta_model

_ROW_BITS = 40  # a row number below, the stored tensor's number above


@dataclass(frozen=True)
class RuntimeModel:
    """A model on the meta device: shapes and kinds by name, tied parameters, regions of the checkpoint.

    unclear  parameters whose stored form the row numbers did not explain
    head     parameters around the body: what turns hidden states into scores or token logits
    scaled_embeddings   embeddings that multiply what they look up (Gemma)
    transposed_experts  modules whose stacked experts are [in, out]
    """

    class_name: str
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, LayerKind]
    tied: Mapping[str, str]
    regions: Mapping[str, tuple[Region, ...]]
    unclear: frozenset[str]
    transposed_experts: frozenset[str] = frozenset()
    head: frozenset[str] = frozenset()
    scaled_embeddings: frozenset[str] = frozenset()


def runtime_model(model: BaseModel, *, trust_remote_code: bool, head: bool = False) -> RuntimeModel:
    """Build the class that Sentence Transformers loads (with `head`: the one that config.json names) and map it.

    Raises UnusableInput when that needs transformers, which is missing, or code of the model's, which is not trusted.
    """
    meta = build_meta_model(model, trust_remote_code=trust_remote_code, head=head)
    shapes = {name: tuple(value.shape) for name, value in meta.state_dict().items()}
    regions, unclear = _regions(meta, shapes, model)
    return RuntimeModel(
        class_name=type(meta).__name__,
        shapes=shapes,
        kinds=dict(_kinds(meta)),
        tied=dict(getattr(meta, "all_tied_weights_keys", None) or {}),
        regions=regions,
        unclear=unclear,
        head=_head(meta),
        scaled_embeddings=frozenset(name for name, m in meta.named_modules() if hasattr(m, "embed_scale")),
        transposed_experts=frozenset(name for name, m in meta.named_modules() if getattr(m, "is_transposed", False)),
    )


def meta_names(parameters: Sequence[str], optional: Sequence[str], runtime: RuntimeModel) -> Names:
    """Names by the running model's parameters; a common prefix is taken off or put on where needed."""
    known = {name: name for name in runtime.shapes}
    change = common_change(parameters, known)
    found: dict[str, str] = {}
    for parameter in [*parameters, *optional]:
        candidates = ([apply_change(change, parameter)] if change else []) + [parameter]
        name = next((candidate for candidate in candidates if candidate in known), None)
        if name is not None:
            found[parameter] = name
    regions = {p: _through_ties(name, runtime) for p, name in found.items()}
    spelled = {name: parameter for parameter, name in found.items()}
    return Names(
        regions={parameter: region for parameter, region in regions.items() if region},
        missing=tuple(p for p in [*parameters, *optional] if not regions.get(p)),
        shapes={parameter: runtime.shapes[name] for parameter, name in found.items()},
        kinds={
            parameter.removesuffix(".weight"): runtime.kinds[name.removesuffix(".weight")]
            for parameter, name in found.items()
            if name.removesuffix(".weight") in runtime.kinds
        },
        how=f"names by {runtime.class_name}",
        tied={spelled.get(twin, twin): spelled.get(source, source) for twin, source in runtime.tied.items()},
        running=dict(found.items()),
        runtime=runtime,
    )


def _head(meta: Any) -> frozenset[str]:
    body = meta.base_model
    if body is meta:
        return frozenset()
    inside = {id(parameter) for parameter in body.parameters()}
    return frozenset(name for name, parameter in meta.named_parameters() if id(parameter) not in inside)


def _through_ties(name: str, runtime: RuntimeModel) -> tuple[Region, ...]:
    """Regions of a parameter, or of the one it is tied to where only that one is stored."""
    if name in runtime.regions:
        return runtime.regions[name]
    return runtime.regions.get(runtime.tied.get(name, ""), ())


def _kinds(meta: Any) -> Iterator[tuple[str, LayerKind]]:
    from torch import nn

    for name, module in meta.named_modules():
        weight = getattr(module, "weight", None)
        if weight is None or not hasattr(weight, "shape"):
            continue
        if isinstance(module, nn.Embedding):
            yield name, "embedding"
        elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            yield name, "conv"
        elif type(module).__name__ == "Conv1D":
            yield name, "conv1d"
        else:
            yield name, "norm" if weight.ndim == 1 else "linear"


def _regions(
    meta: Any, shapes: Mapping[str, tuple[int, ...]], model: BaseModel
) -> tuple[Mapping[str, tuple[Region, ...]], frozenset[str]]:
    """Run transformers' conversion on row numbers."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    mapping = get_model_conversion_mapping(meta)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state = meta.state_dict()
    try:
        stored = sorted(model.checkpoint, key=lambda info: dot_natural_key(info.name))
    except ValueError as error:  # it takes `²` for a number, and then finds that it is none
        raise UnusableInput(f"transformers cannot read the names of the tensors of {model.name}: {error}.") from None
    regions: dict[str, tuple[Region, ...]] = {}
    groups: dict[str, Any] = {}
    for number, info in enumerate(stored):
        plain = runtime_name(info.name)
        name, pattern = rename_source_key(plain, renamings, converters, meta.base_model_prefix, state)
        if name not in shapes and plain in shapes:
            name, pattern = rename_source_key(plain, [], [], meta.base_model_prefix, state)
        if name not in shapes:
            continue
        if pattern is None:
            regions[name] = (Region.whole(info, shapes[name]),)
        else:
            group = groups.setdefault(name, copy.deepcopy(by_pattern[pattern]))
            group.add_tensor(name, plain, pattern, _row_numbers(number, info))
    unclear: set[str] = set()
    for name, converter in groups.items():
        try:
            converted = converter.convert(name, model=meta, config=meta.config)
        except Exception:  # an operation that needs real numbers or real sizes
            unclear.update(_targets(converter, name, shapes))
            continue
        for target, value in converted.items():
            numbers = value[0] if isinstance(value, list) else value
            found = _read_numbers(numbers, shapes.get(target, ()), stored)
            if found is None:
                unclear.add(target)
            else:
                regions[target] = found
    return regions, frozenset(unclear)


def _targets(converter: Any, name: str, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    first = converter.target_patterns[0]
    return {name.replace(first, target) for target in converter.target_patterns} & set(shapes) or {name}


def _row_numbers(number: int, info: TensorInfo) -> Any:
    """A tensor like the stored one, one column wide, that holds (number of the tensor, number of the row)."""
    import torch

    shape = (*info.shape[:-1], 1) if len(info.shape) > 1 else info.shape
    rows = math.prod(shape)
    return torch.arange(rows).add_(number << _ROW_BITS).reshape(shape)


def _read_numbers(numbers: Any, shape: tuple[int, ...], stored: Sequence[TensorInfo]) -> tuple[Region, ...] | None:
    """Regions out of converted row numbers, or None where the parameter's shape is not that of its rows."""
    found = tuple(numbers.shape)
    transposed = False
    if len(shape) > 1 and found == (*shape[:-1], 1):
        pass
    elif len(shape) > 1 and found == (*shape[:-2], 1, shape[-1]):
        transposed = True
    elif found != shape or len(shape) != 1:
        return None
    experts: list[tuple[int | None, Any]] = (
        list(enumerate(numbers.reshape(shape[0], -1))) if len(shape) == 3 else [(None, numbers.reshape(-1))]
    )
    regions: list[Region] = []
    for expert, flat in experts:
        for first, last, row in _runs(flat.tolist()):
            info = stored[first >> _ROW_BITS]
            start = first & ((1 << _ROW_BITS) - 1)
            width = info.shape[-1] if len(info.shape) > 1 else 1
            count = last - first + 1
            regions.append(
                Region(info.name, (start * width, (start + count) * width), (row, row + count), expert, transposed)
            )
    return tuple(regions)


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first, last, position) of runs of consecutive numbers."""
    begin = 0
    for position in range(1, len(values) + 1):
        if position == len(values) or values[position] != values[position - 1] + 1:
            yield values[begin], values[position - 1], begin
            begin = position
