"""Adapter tensors → edits of stored tensors: the method's row says which formula, the names say where."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ingraft.adapter import Adapter, AdapterTensors, SavedParameter, TargetModule, check_patterns
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind, Method, Target
from ingraft.naming import Names, Region
from ingraft.steps import IN_MEMORY, REPLACE, Edit

# PEFT types whose forward pass adds to a scaled embedding without scaling.
_BLIND_TO_SCALE = ("HIRA", "TINYLORA")


@dataclass(frozen=True)
class PlacedEdit:
    """An edit and the stored tensor that it is for."""

    tensor: str
    edit: Edit


def place_targets(
    adapter: Adapter, method: Method, tensors: AdapterTensors, names: Names, dtype: str
) -> tuple[PlacedEdit, ...]:
    """The edits of every target module of a base that stores `dtype`.

    Raises UnusableInput where config, tensors and base do not fit together.
    """
    _check_shared(adapter, method, tensors)
    check_patterns(adapter, [owner.pattern_name for owner in tensors.targets if owner.parameter])
    targets = [_target(adapter, method, owner, names, dtype) for owner in tensors.targets]
    placed: list[PlacedEdit] = []
    for owner, target in zip(tensors.targets, targets, strict=True):
        inputs = {name: adapter.tensors[key] for name, key in {**owner.tensors, **tensors.shared}.items()}
        if method.route == "in-memory":
            placed += _in_memory(owner, target, inputs, names)
            continue
        settings = _settings(adapter, method, target, targets)
        formula = _formula(method, owner, target, names)
        turned = _is_turned(owner, names)
        matrix = replace(target, shape=_edit_shape(owner, target, names))
        if method.formula:
            placed += [
                PlacedEdit(region.tensor, _edit(owner, matrix, "weight", formula, inputs, settings, region, turned))
                for region in _by_expert(owner, names)
            ]
        placed += _bias_edits(adapter, method, owner, target, inputs, settings, names)
    return tuple(placed)


def _in_memory(owner: TargetModule, target: Target, inputs: Mapping[str, TensorInfo], names: Names) -> list[PlacedEdit]:
    """Weight and bias of a module that PEFT merges."""
    placed = []
    for parameter in (owner.weight, owner.bias):
        is_weight = parameter == owner.weight
        transposed = is_weight and target.kind == "conv1d"
        for region in names.regions.get(parameter, ()):
            edit = Edit(
                target=owner.module,
                parameter=names.in_runtime(parameter),
                part="weight" if is_weight else "bias",
                kind=target.kind,
                formula=IN_MEMORY,
                inputs=dict(inputs),
                settings={},
                shape=target.shape if is_weight else (target.shape[0], 1),
                elements=region.elements,
                rows=(0, target.shape[0]) if transposed else region.rows,
                transposed=transposed,
                expert=region.expert,
            )
            placed.append(PlacedEdit(region.tensor, edit))
    return placed


def _formula(method: Method, owner: TargetModule, target: Target, names: Names) -> str:
    if "trainable_tokens_delta" in owner.tensors:
        return "tokens:trainable_tokens"
    if target.kind == "embedding":
        return method.embedding or method.formula
    if _is_stack(owner, names):
        return method.expert or method.formula
    return method.formula


def _check_shared(adapter: Adapter, method: Method, tensors: AdapterTensors) -> None:
    lacking = sorted(set(method.shared.values()) - method.optional - set(tensors.shared))
    if lacking and tensors.targets:
        raise UnusableInput(
            f"{adapter.weights} has no {', '.join(lacking)}, which all modules of {method.name} share.",
            hint="The file is incomplete; save the adapter again.",
        )


def _bias_edits(
    adapter: Adapter,
    method: Method,
    owner: TargetModule,
    target: Target,
    inputs: Mapping[str, TensorInfo],
    settings: Mapping[str, Any],
    names: Names,
) -> list[PlacedEdit]:
    own = method.bias_tensors & set(owner.tensors)
    if not method.bias or (method.bias_tensors and not own):
        return []
    regions = names.regions.get(owner.bias)
    if regions is None:
        if own or not method.formula:
            raise UnusableInput(
                f"{adapter.name} trains a bias on {owner.module}, which has none in the base.",
                hint="Train without it (lora_bias=False): a merge adds no parameter that the model's class lacks.",
            )
        return []
    bias = Target(target.module, target.kind, (target.shape[0], 1), target.tensors, True)
    return [
        PlacedEdit(region.tensor, _edit(owner, bias, "bias", method.bias, inputs, settings, region))
        for region in regions
    ]


def _edit(
    owner: TargetModule,
    target: Target,
    part: Any,
    formula: str,
    inputs: Mapping[str, TensorInfo],
    settings: Mapping[str, Any],
    region: Region,
    turned: bool = False,
) -> Edit:
    transposed = region.transposed or turned or (target.kind == "conv1d" and part == "weight")
    return Edit(
        target=owner.module,
        parameter=owner.weight if part == "weight" else owner.bias,
        part=part,
        kind=target.kind,
        formula=formula,
        inputs=dict(inputs),
        settings=dict(settings) if region.expert is None else {**settings, "expert": region.expert},
        shape=target.shape,
        elements=region.elements,
        rows=(0, target.shape[0]) if transposed else region.rows,
        transposed=transposed,
        expert=region.expert,
    )


def _target(adapter: Adapter, method: Method, owner: TargetModule, names: Names, dtype: str) -> Target:
    kind = names.kinds.get(owner.module, "linear")
    if "lora_embedding_A" in owner.tensors or "trainable_tokens_delta" in owner.tensors:
        kind = "embedding"
    if kind not in method.kinds:
        raise UnusableInput(
            f"{adapter.name}: {method.name} on {owner.module}, a layer of kind {kind}, cannot be merged by formula.",
            hint=f"Kinds that can: {', '.join(sorted(method.kinds))}.",
        )
    if kind == "embedding" and method.peft_type in _BLIND_TO_SCALE and _is_scaled(owner, names):
        raise UnusableInput(
            f"{adapter.name}: {owner.module} scales what it looks up; PEFT's {method.name} does not scale its part.",
            hint="Train without this module.",
        )
    lacking = sorted(set(method.tensors.values()) - method.optional - set(owner.tensors))
    if lacking:
        present = ", ".join(sorted(owner.tensors))
        raise UnusableInput(
            f"{adapter.weights}: {owner.module} has {present} but no {', '.join(lacking)}.",
            hint="The file is incomplete; save the adapter again.",
        )
    return Target(
        module=owner.pattern_name,
        kind=kind,
        shape=matrix_shape(names.shapes[owner.weight], kind),
        tensors={parameter: adapter.tensors[key].shape for parameter, key in owner.tensors.items()},
        has_bias=owner.bias in names.regions,
        dtype=dtype,
    )


def _is_stack(owner: TargetModule, names: Names) -> bool:
    """Is the target a parameter that stacks the matrices of experts?"""
    return bool(owner.parameter) and len(names.shapes[owner.weight]) == 3


def _edit_shape(owner: TargetModule, target: Target, names: Names) -> tuple[int, int]:
    """(out, in) of the matrix that one edit is about: of a stack, one expert's."""
    if not _is_stack(owner, names):
        return target.shape
    _, first, second = names.shapes[owner.weight]
    return (second, first) if _is_turned(owner, names) else (first, second)


def _is_turned(owner: TargetModule, names: Names) -> bool:
    """Does the running model hold its stacked experts as [in, out]?"""
    if not owner.parameter or names.runtime is None:
        return False
    return names.in_runtime(owner.weight).rpartition(".")[0] in names.runtime.transposed_experts


def _is_scaled(owner: TargetModule, names: Names) -> bool:
    if names.runtime is None:
        return False
    return names.in_runtime(owner.weight).removesuffix(".weight") in names.runtime.scaled_embeddings


def _by_expert(owner: TargetModule, names: Names) -> tuple[Region, ...]:
    """Regions of the weight; a stack of experts that is stored as one tensor is cut into its matrices."""
    regions, shape = names.regions[owner.weight], names.shapes[owner.weight]
    if not _is_stack(owner, names) or any(region.expert is not None for region in regions):
        return regions
    size = shape[1] * shape[2]
    return tuple(
        Region(region.tensor, (size * expert, size * (expert + 1)), (0, shape[1]), expert)
        for region in regions
        for expert in range(shape[0])
    )


def matrix_shape(shape: tuple[int, ...], kind: LayerKind) -> tuple[int, int]:
    """(out, in) of a weight: Conv1D turned round, convolutions flattened."""
    if len(shape) == 1:
        return (shape[0], 1)
    rows, columns = shape[0], math.prod(shape[1:])
    return (columns, rows) if kind == "conv1d" else (rows, columns)


def _settings(adapter: Adapter, method: Method, target: Target, targets: Sequence[Target]) -> Mapping[str, Any]:
    try:
        settings = method.settings(adapter.config.raw, target, targets)
        if not all(math.isfinite(value) for value in settings.values() if isinstance(value, float)):
            raise ValueError("one of them is infinite or no number")
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, IndexError) as error:
        raise UnusableInput(
            f"{adapter.folder / 'adapter_config.json'} has no valid settings for {target.module}: {error!r:.300}."
        ) from None
    return settings


def place_saved(
    adapter: Adapter, saved: Sequence[SavedParameter], names: Names, vocabulary: Collection[int]
) -> tuple[tuple[PlacedEdit, ...], tuple[SavedParameter, ...]]:
    """Edits that put whole parameters into the base, and the saved parameters that the base does not have.

    What has one row per token (`vocabulary`: sizes of the base's) may come with another number of rows.
    """
    placed: list[PlacedEdit] = []
    absent: list[SavedParameter] = []
    for parameter in saved:
        regions = names.regions.get(parameter.parameter)
        if regions is None:
            absent.append(parameter)
            continue
        info, shape = adapter.tensors[parameter.key], names.shapes[parameter.parameter]
        by_token = len(info.shape) == len(shape) > 0 and shape[0] in vocabulary and info.shape[0] > 0
        grown = by_token and shape[1:] == info.shape[1:] and len(regions) == 1
        if info.shape != shape and not grown:
            raise UnusableInput(
                f"{adapter.weights}: {parameter.key} has the shape {list(info.shape)}, the base's "
                f"{parameter.parameter} has {list(shape)}.",
                hint="The adapter belongs to another base; pass that one with --base.",
            )
        placed += [
            PlacedEdit(region.tensor, _replacement(adapter, parameter, names, region, grown=info.shape != shape))
            for region in regions
        ]
    return tuple(placed), tuple(absent)


def _replacement(adapter: Adapter, parameter: SavedParameter, names: Names, region: Region, *, grown: bool) -> Edit:
    """The edit that puts the saved rows of `region` into its place."""
    if region.transposed:
        raise UnusableInput(
            f"{adapter.weights}: {parameter.key} cannot be put into the base's {region.tensor}, which is stored "
            "transposed.",
            hint="Train without it in modules_to_save.",
        )
    info = parameter.info
    matrix = matrix_shape(info.shape, "linear")
    first, last = region.rows
    if region.expert is not None:  # the rows of all experts, one matrix below the other
        experts, rows, columns = info.shape
        matrix = (experts * rows, columns)
        first, last = first + region.expert * rows, last + region.expert * rows
    return Edit(
        target=parameter.parameter.rsplit(".", 1)[0],
        parameter=parameter.parameter,
        part="weight",
        kind=names.kinds.get(parameter.parameter.removesuffix(".weight"), "linear"),
        formula=REPLACE,
        inputs=parameter.inputs,
        settings={},
        shape=matrix,
        elements=(0, info.elements) if grown else region.elements,
        rows=(0, matrix[0]) if grown else (first, last),
        expert=region.expert,
        grown=grown,
    )
