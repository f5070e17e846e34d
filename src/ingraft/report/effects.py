"""What the merge did to each tensor, in the order and with the names that a page shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.diff.numbers import NUMBERS, change_of
from ingraft.errors import UnusableInput
from ingraft.naming.numbers import NUMBER
from ingraft.steps import MergePlan, MergeStep

_FLOAT32_UNIT = 2.0**-24
# What the figures of a merge hold of each tensor, beside its loss. Their squares are added up.
_RECORDED = ("elements", "changed", "base_norm", "delta_norm")
_MOST_RECORDED = 1e100


@dataclass(frozen=True)
class TensorEffect:
    """One edited tensor.

    changed     elements whose stored value is not the base's, of `elements`
    base_norm   ‖W‖, Frobenius; `delta_norm` is ‖ΔW‖
    lost        ‖what rounding to the stored dtype lost‖ / ‖ΔW‖; None where it was not recorded
    """

    tensor: str
    dtype: str
    elements: int
    changed: int
    base_norm: float
    delta_norm: float
    lost: float | None

    @property
    def relative(self) -> float | None:
        """‖ΔW‖ / ‖W‖."""
        return self.delta_norm / self.base_norm if self.base_norm else None

    @property
    def lost_in_float32(self) -> float | None:
        """What float32 would lose at most: rounding errors of a variance below (u·w)²/3, so u·‖W + ΔW‖ / (√3·‖ΔW‖)."""
        if self.dtype not in ("BF16", "F16") or not self.delta_norm or self.lost is None:
            return None
        written = self.base_norm + self.delta_norm
        return min(self.lost, _FLOAT32_UNIT * written / (math.sqrt(3) * self.delta_norm))


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in the model: its layer (None outside of the layers) and what it is there."""

    module: str
    layer: int | None


def recorded_effects(plan: MergePlan, figures: Any) -> tuple[TensorEffect, ...]:
    """Out of the figures that `merge` measured while it wrote, a list of objects.

    Tensors that `plan` does not edit are left out, and so is what a manifest says in another form.
    """
    steps = {step.tensor: step for step in plan.steps()}
    return tuple(
        TensorEffect(
            row["tensor"],
            steps[row["tensor"]].dtype,
            row["elements"],
            row["changed"],
            row["base_norm"],
            row["delta_norm"],
            row.get("rounding_loss"),
        )
        for row in (figures if isinstance(figures, (list, tuple)) else ())
        if isinstance(row, Mapping) and _is_recorded(row) and row["tensor"] in steps
    )


def _is_recorded(row: Mapping[str, Any]) -> bool:
    numbers: list[Any] = [row.get(name) for name in _RECORDED]
    if row.get("rounding_loss") is not None:  # null where it was not finite
        numbers.append(row["rounding_loss"])
    if not isinstance(row.get("tensor"), str) or not all(type(number) in (int, float) for number in numbers):
        return False
    return all(0 <= number <= _MOST_RECORDED for number in numbers) and row["changed"] <= row["elements"] > 0


def measured_effects(plan: MergePlan, merged: Path) -> tuple[TensorEffect, ...]:
    """ΔW as it is stored: each edited tensor of `merged` minus the base's, read from both files now.

    Tensors whose base is not there to be read are left out, as those of a base that was dequantised for the merge.
    """
    with open_files() as files:
        found = []
        for step, written in _edited(plan, merged):
            assert step.source is not None
            change = change_of(files, step.source, written)
            found.append(
                TensorEffect(
                    step.tensor, written.dtype, change.elements, change.changed, change.base_norm, change.norm, None
                )
            )
    return tuple(found)


def with_losses(effects: Iterable[TensorEffect], recorded: Iterable[TensorEffect]) -> tuple[TensorEffect, ...]:
    """`effects` with what rounding lost from `recorded`: it can be measured only while the exact sum is at hand."""
    lost = {effect.tensor: effect.lost for effect in recorded}
    return tuple(replace(effect, lost=lost.get(effect.tensor)) for effect in effects)


def _edited(plan: MergePlan, merged: Path) -> Iterable[tuple[MergeStep, TensorInfo]]:
    for shard in plan.shards:
        try:
            written = {info.name: info for info in read_header(merged / shard.file).tensors}
        except UnusableInput:  # missing or cut off: a check says so
            continue
        for step in shard.steps:
            info, source = written.get(step.tensor), step.source
            if step.action not in ("edit", "replace") or info is None or source is None or not source.file.is_file():
                continue
            if info.shape == source.shape and {info.dtype, source.dtype} <= NUMBERS.keys():
                yield step, info


def place(tensor: str) -> Place:
    """`encoder.layer.3.attention.self.query.weight` → layer 3, `encoder.layer.*.attention.self.query`.

    The first number counts layers; any further ones count experts and the like, which stand together.
    """
    name = tensor.removesuffix(".weight")
    first = NUMBER.search(name)
    return Place(NUMBER.sub("*", name), int(first.group()) if first else None)


def places(effects: Iterable[TensorEffect]) -> dict[str, Place]:
    """The place of each tensor; what all names in layers begin with is left out."""
    found = {effect.tensor: place(effect.tensor) for effect in effects}
    starts = {spot.module.partition(".*.")[0] for spot in found.values() if spot.layer is not None}
    prefix = f"{starts.pop()}.*." if len(starts) == 1 else ""
    return {name: Place(spot.module.removeprefix(prefix), spot.layer) for name, spot in found.items()}


@dataclass(frozen=True)
class Cell:
    """All tensors of one place together: ‖ΔW‖/‖W‖ over them."""

    place: Place
    tensors: int
    relative: float


def cells(effects: Iterable[TensorEffect]) -> tuple[Cell, ...]:
    """The heat map: one cell per layer and module, in the order of the tensors."""
    effects = tuple(effects)
    groups: dict[Place, list[TensorEffect]] = {}
    for name, spot in places(effects).items():
        groups.setdefault(spot, []).extend(effect for effect in effects if effect.tensor == name)
    return tuple(
        Cell(spot, len(group), math.sqrt(sum(e.delta_norm**2 for e in group) / base))
        for spot, group in groups.items()
        if (base := sum(e.base_norm**2 for e in group))
    )
