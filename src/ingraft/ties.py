"""Tied weights: parameters that share one stored tensor, when an adapter changes some of them and not the others.

The running model keeps both equal, so either both may change, or the tie is cut: every twin gets a tensor of its own
and the config says `tie_word_embeddings: false`. Which it is follows from what the unmerged model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ingraft.adapter import AdapterConfig
from ingraft.checkpoint import Checkpoint, TensorInfo
from ingraft.errors import UnusableInput
from ingraft.naming import Names
from ingraft.naming.meta import RuntimeModel
from ingraft.steps import REPLACE, ZERO
from ingraft.targets import PlacedEdit

# PEFT gives these to all twins at once.
_SHARED_BY_TWINS = ("tokens:trainable_tokens",)


@dataclass(frozen=True)
class Twin:
    """A parameter that is written out as a tensor of its own: `tensor` gets the numbers of `source`."""

    tensor: str
    source: TensorInfo


@dataclass(frozen=True)
class TiePlan:
    """Edits by their final tensors, tensors to add, what config.json must say, and a note for the plan."""

    edits: tuple[PlacedEdit, ...]
    twins: tuple[Twin, ...]
    untied: bool
    notes: tuple[str, ...]


def plan_ties(edits: Sequence[PlacedEdit], names: Names, checkpoint: Checkpoint, config: AdapterConfig) -> TiePlan:
    """Keep or cut the ties that `edits` touch. `config` is the adapter's."""
    runtime = names.runtime
    if runtime is None or not runtime.tied:
        return TiePlan(tuple(edits), (), False, ())
    groups = _groups(runtime)
    parameters = [names.in_runtime(placed.edit.parameter) for placed in edits]
    cut = False
    notes = []
    extra: list[PlacedEdit] = []
    for source, members in groups.items():
        touching = [edit for edit, name in zip(edits, parameters, strict=True) if name in members]
        if not touching:
            continue
        together = all(_for_all_twins(edit, config) for edit in touching)
        if together and touching[0].edit.formula in _SHARED_BY_TWINS and _with_bias(members, runtime):
            cut = True
            silenced = _with_bias(members, runtime)
            extra += _on_output_layers(silenced, touching, runtime)
            notes.append(f"the bias of {' and '.join(silenced)} becomes zero, as it is in PEFT's adapted model")
        elif together:
            notes.append(f"{' and '.join(members)} stay tied and change together")
        else:
            cut = True
            notes.append(f"tie cut: {', '.join(m for m in members if m != source)} written apart from {source}")
    if not cut:
        return TiePlan(tuple(edits), (), False, tuple(notes))
    twins: dict[str, Twin] = {}
    for source, members in groups.items():
        stored = _stored_whole(source, runtime, checkpoint)
        for member in members:
            if member != source and member not in runtime.regions and stored is not None:
                twins[member] = Twin(_spelled(member, source, stored.name), stored)
    moved = [
        PlacedEdit(twins[name].tensor, edit.edit) if name in twins else edit
        for edit, name in zip([*edits, *extra], [*parameters, *(edit.edit.parameter for edit in extra)], strict=True)
    ]
    return TiePlan(tuple(moved), tuple(twins.values()), True, tuple(notes))


def _groups(runtime: RuntimeModel) -> dict[str, tuple[str, ...]]:
    """The parameter that is stored → all that share its numbers, itself first."""
    groups: dict[str, list[str]] = {}
    for twin, source in runtime.tied.items():
        root = source
        while root in runtime.tied and runtime.tied[root] != root:
            root = runtime.tied[root]
        groups.setdefault(root, [root]).append(twin)
    return {root: tuple(members) for root, members in groups.items()}


def _for_all_twins(placed: PlacedEdit, config: AdapterConfig) -> bool:
    """Does PEFT apply this edit to every twin: token rows, and embeddings saved because the vocabulary grew?"""
    edit = placed.edit
    if edit.formula == REPLACE:
        return not config.saves_whole(edit.target)
    return edit.formula in _SHARED_BY_TWINS


def _with_bias(members: Sequence[str], runtime: RuntimeModel) -> list[str]:
    """The output layers among tied parameters that have a bias."""
    modules = [member.removesuffix(".weight") for member in members]
    return [m for m in modules if runtime.kinds.get(m) == "linear" and f"{m}.bias" in runtime.shapes]


def _on_output_layers(
    modules: Sequence[str], touching: Sequence[PlacedEdit], runtime: RuntimeModel
) -> list[PlacedEdit]:
    """PEFT's wrapper of trained tokens computes an output layer without its bias: the same rows, and a zero bias."""
    extra = []
    for module in modules:
        extra += [PlacedEdit(t.tensor, replace(t.edit, target=module, parameter=f"{module}.weight")) for t in touching]
        size = runtime.shapes[f"{module}.bias"][0]
        zero = replace(
            touching[0].edit,
            target=module,
            parameter=f"{module}.bias",
            part="bias",
            kind="linear",
            formula=ZERO,
            inputs={},
            settings={},
            shape=(size, 1),
            elements=(0, size),
            rows=(0, size),
        )
        stored = runtime.regions.get(f"{module}.bias")
        extra.append(PlacedEdit(stored[0].tensor if stored else f"{module}.bias", zero))
    return extra


def _stored_whole(source: str, runtime: RuntimeModel, checkpoint: Checkpoint) -> TensorInfo | None:
    regions = runtime.regions.get(source, ())
    if not regions:
        return None
    info = checkpoint.tensors[regions[0].tensor]
    if len(regions) != 1 or regions[0].elements != (0, info.elements):
        raise UnusableInput(f"{source} is tied and stored in parts; cutting that tie is not supported.")
    return info


def _spelled(twin: str, source: str, stored: str) -> str:
    """The twin's name on disk: with the prefix that the source has there."""
    if stored.endswith(source):
        return stored[: len(stored) - len(source)] + twin
    if source.endswith(stored):
        prefix = source[: len(source) - len(stored)]
        return twin.removeprefix(prefix)
    return twin
