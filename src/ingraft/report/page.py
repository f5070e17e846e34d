"""The page of a proof: no script is needed to see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ingraft.checkpoint import dtype_name
from ingraft.report.effects import TensorEffect, measured_effects, recorded_effects, with_losses
from ingraft.report.html import check_report, fill, write_page
from ingraft.report.parts import part_of, parts, read_manifest
from ingraft.steps import MergePlan
from ingraft.verification.report import VerificationReport

if TYPE_CHECKING:
    from ingraft.report.answers import Comparison

_MOST_TENSORS = 600  # in the table of them; the JSON has them all
_WORST_TEXTS = 8
_MOVED_PAIRS = 8


def write_report(path: Path, report: VerificationReport, plan: MergePlan, *, merged: Path) -> None:
    """Write `report` on the merge of `plan` into `merged` as an HTML page to `path`.

    Raises UnusableInput when `path` cannot be written, or the libraries of `ingraft[report]` are not installed.
    """
    check_report(path, merged=merged, inputs=(plan.adapter.root, plan.base.root))
    write_page(path, render(report, plan, merged=merged))


def render(report: VerificationReport, plan: MergePlan, *, merged: Path) -> str:
    """The page as text; without `report.answers` it says how to get them."""
    from markupsafe import Markup

    from ingraft.report import plots
    from ingraft.report.answers import compare_answers

    manifest = read_manifest(merged)
    effects, recorded = _effects(report, plan, merged, manifest)
    found = compare_answers(report.answers) if report.answers is not None else None
    stored = dtype_name(next((step.dtype for step in plan.steps() if step.action == "edit"), ""))
    return fill(
        "proof.html",
        report=report,
        plan=plan,
        merged=merged,
        parts=parts(plan, merged, manifest),
        effects=sorted(effects, key=lambda effect: -(effect.relative or 0.0))[:_MOST_TENSORS],
        effects_left=max(0, len(effects) - _MOST_TENSORS),
        recorded=recorded,
        kept=_kept(effects),
        stored=stored,
        heat_map=Markup(plots.heat_map(effects)) if effects else "",
        rounding=Markup(plots.rounding(effects, stored)),
        answers=_answers(found) if found else None,
        scatter=Markup(plots.scatter(found)) if found else "",
        distances=Markup(plots.distances(found)) if found else "",
        parity=report.figures.get("embeddings"),
        task=report.figures.get("task"),
    )


def _effects(
    report: VerificationReport, plan: MergePlan, merged: Path, manifest: Mapping[str, Any]
) -> tuple[tuple[TensorEffect, ...], bool]:
    """By tensor, and whether what rounding lost is the merge's own record and not measured now."""
    if report.figures.get("tensors"):
        return recorded_effects(plan, report.figures["tensors"]), False
    recorded = recorded_effects(plan, part_of(manifest, "verification", "figures").get("tensors"))
    measured = with_losses(measured_effects(plan, merged), recorded)
    return measured or recorded, True


@dataclass(frozen=True)
class _Kept:
    """What the stored dtype keeps of all deltas together, and what float32 would."""

    stored: float
    float32: float | None


def _kept(effects: tuple[TensorEffect, ...]) -> _Kept | None:
    known = [effect for effect in effects if effect.lost is not None]
    whole = sum(effect.delta_norm**2 for effect in known)
    if not whole:
        return None
    lost = sum(((effect.lost or 0.0) * effect.delta_norm) ** 2 for effect in known)
    wide = [effect.lost_in_float32 for effect in known]
    in_float32 = sum(((w or 0.0) * effect.delta_norm) ** 2 for w, effect in zip(wide, known, strict=True))
    return _Kept(1 - (lost / whole) ** 0.5, 1 - (in_float32 / whole) ** 0.5 if any(wide) else None)


def _answers(found: Comparison) -> dict[str, Any]:
    """What the page's tables show of the answers."""
    worst = sorted(found.distances, key=lambda distance: -distance.merged)
    moved = sorted(found.pairs, key=lambda pair: -abs(pair.moved))
    return {
        "found": found,
        "worst": worst[:_WORST_TEXTS],
        "moved": moved[:_MOVED_PAIRS],
        "median_merged": median(distance.merged for distance in found.distances),
        "median_base": median(distance.base for distance in found.distances),
        "largest_pair": max(abs(pair.merged - pair.adapted) for pair in found.pairs) if found.pairs else None,
        "moved_pair": max(abs(pair.moved) for pair in found.pairs) if found.pairs else None,
    }
