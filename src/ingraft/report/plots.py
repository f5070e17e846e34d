"""The plots of a proof: what changed in the weights, and how near the models' answers are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import altair

from ingraft.report.answers import Comparison, Pair
from ingraft.report.drawing import ACCENT, INK, MUTED, PAPER, WIDE, chart, svg
from ingraft.report.effects import TensorEffect, cells, places
from ingraft.report.words import number, percent, raised, shortened

_BINS_PER_DECADE = 4
_MERGED, _BASE = "merged", "base"


def heat_map(effects: Sequence[TensorEffect]) -> str:
    """‖ΔW‖/‖W‖ by layer and module, in percent."""
    found = cells(effects)
    largest = max((cell.relative for cell in found), default=0.0) or 1.0
    rows = [
        {
            "layer": "–" if cell.place.layer is None else str(cell.place.layer),
            "module": cell.place.module,
            "share": cell.relative / largest,
            "text": f"{100 * cell.relative:.2g}" if cell.relative >= 1e-4 else "<0.01",
            "label": f"{cell.place.module}, layer {cell.place.layer}: {percent(cell.relative)} of ‖W‖"
            + (f", {cell.tensors} tensors" if cell.tensors > 1 else ""),
        }
        for cell in found
    ]
    layers = sorted({cell.place.layer for cell in found if cell.place.layer is not None})
    columns = (["–"] if any(cell.place.layer is None for cell in found) else []) + [str(layer) for layer in layers]
    modules = list(dict.fromkeys(cell.place.module for cell in found))
    width = max(20, min(44, WIDE // max(len(columns), 1)))
    base = chart(rows).encode(
        x=altair.X("layer:O", sort=columns, title="layer", axis=altair.Axis(labelAngle=0, domain=False, ticks=False)),
        y=altair.Y("module:N", sort=modules, title=None, axis=altair.Axis(domain=False, ticks=False, labelLimit=320)),
        description="label:N",
    )
    squares = base.mark_rect(fill=ACCENT, stroke=PAPER, strokeWidth=1).encode(
        fillOpacity=altair.FillOpacity("share:Q", scale=altair.Scale(domain=[0, 1], range=[0.04, 1]), legend=None)
    )
    words = base.mark_text(fontSize=11 if width > 30 else 8, aria=False).encode(
        text="text:N", color=altair.condition("datum.share > 0.72", altair.value(PAPER), altair.value(INK))
    )
    return svg((squares + words).properties(width=width * len(columns), height=24 * len(modules)), names=modules)


def rounding(effects: Sequence[TensorEffect], stored: str) -> str:
    """The share of ‖ΔW‖ that rounding lost, a dot per tensor, beside what float32 would lose; empty where unknown."""
    spots = places(effects)
    here, wide = f"{stored}, as stored", "float32, at most"
    rows: list[dict[str, Any]] = []
    for effect in effects:
        for kind, lost in ((here, effect.lost), (wide, effect.lost_in_float32)):
            if lost:
                label = f"{effect.tensor}: {percent(lost)} of the delta lost in {kind}"
                rows.append({"module": spots[effect.tensor].module, "lost": lost, "kind": kind, "label": label})
    if not rows:
        return ""
    modules = list(dict.fromkeys(spot.module for spot in spots.values()))
    kinds = [kind for kind in (here, wide) if any(row["kind"] == kind for row in rows)]
    legend = altair.Legend(title=None, orient="top", columnPadding=30) if len(kinds) > 1 else None
    dots = chart(rows).mark_point(size=36, strokeWidth=1.5, opacity=0.8)
    return svg(
        dots.encode(
            x=altair.X("lost:Q", scale=altair.Scale(type="log"), title="share of ‖ΔW‖ lost in rounding", axis=_powers(
                [row["lost"] for row in rows])),
            y=altair.Y("module:N", sort=modules, title=None, axis=altair.Axis(labelLimit=320, grid=True)),
            color=altair.Color("kind:N", scale=altair.Scale(domain=kinds, range=[ACCENT, MUTED]), legend=legend),
            shape=altair.Shape("kind:N", scale=altair.Scale(domain=kinds, range=["circle", "diamond"]), legend=legend),
            description="label:N",
        ).properties(width=300, height=24 * len(modules)),
        names=modules,
    )  # fmt: skip


def scatter(found: Comparison) -> str:
    """Merged against adapted, and beside it base against adapted on the same axes."""
    values: list[float] = []
    for pair in found.pairs:
        values += [value for value in (pair.base, pair.adapted, pair.merged) if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    domain = [low - 0.03 * (high - low or 1), high + 0.03 * (high - low or 1)]
    panels = [_panel(found, which, domain) for which in (_MERGED, _BASE)]
    return svg(altair.hconcat(*panels, spacing=36))


def _panel(found: Comparison, which: str, domain: list[float]) -> Any:
    rows = [
        {"x": pair.adapted, "y": getattr(pair, which), "label": _pair_label(pair, which, getattr(pair, which))}
        for pair in found.pairs
    ]
    scale = altair.Scale(domain=domain, nice=False, zero=False)
    line = chart([{"x": value, "y": value} for value in domain])
    dots = chart(rows, title=f"{which} against base + adapter")
    color = ACCENT if which == _MERGED else MUTED
    return (
        line.mark_line(stroke=MUTED, strokeDash=[3, 3], strokeWidth=1, aria=False).encode(x="x:Q", y="y:Q")
        + dots.mark_circle(size=16, opacity=0.55, color=color).encode(
            x=altair.X("x:Q", scale=scale, title=f"{found.quantity}, base + adapter"),
            y=altair.Y("y:Q", scale=scale, title=f"{found.quantity}, {which}"),
            description="label:N",
        )
    ).properties(width=320, height=320)


def _pair_label(pair: Pair, which: str, value: float) -> str:
    texts = " · ".join(f"“{shortened(text, 50)}”" for text in pair.texts)
    return f"{texts}: base + adapter {pair.adapted:.4f}, {which} {value:.4f}"


def distances(found: Comparison) -> str:
    """How far each text's outputs are from base + adapter: a histogram per model, over one logarithmic axis."""
    series = {
        _MERGED: [distance.merged for distance in found.distances],
        _BASE: [distance.base for distance in found.distances],
    }
    positive = [value for values in series.values() for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return ""
    floor = math.floor(math.log10(min(positive)))
    rows = []
    for kind, values in series.items():
        counts: dict[int, int] = {}
        for value in values:
            if math.isfinite(value):
                place = math.floor(_BINS_PER_DECADE * (math.log10(value) - floor)) if value > 0 else 0
                counts[place] = counts.get(place, 0) + 1
        for place, count in counts.items():
            low, high = (10 ** (floor + edge / _BINS_PER_DECADE) for edge in (place, place + 1))
            label = f"{kind}: {count} texts between {number(low)} and {number(high)}"
            rows.append({"kind": kind, "low": low, "high": high, "count": count, "zero": 0, "label": label})
    bars = chart(rows).mark_rect(stroke=PAPER, strokeWidth=1)
    return svg(
        bars.encode(
            x=altair.X("low:Q", scale=altair.Scale(type="log"), axis=_powers([*positive, 1.0]),
                       title="‖x − adapted‖ / ‖adapted‖ of a text, x the model’s outputs"),
            x2="high:Q",
            y=altair.Y("zero:Q", title="texts", axis=altair.Axis(tickMinStep=1)),
            y2="count:Q",
            row=altair.Row("kind:N", sort=[_MERGED, _BASE], title=None, spacing=12,
                           header=altair.Header(labelOrient="top", labelAnchor="start", labelPadding=2)),
            color=altair.Color("kind:N", legend=None,
                               scale=altair.Scale(domain=[_MERGED, _BASE], range=[ACCENT, MUTED])),
            description="label:N",
        ).properties(width=WIDE - 60, height=90)
    )  # fmt: skip


def _powers(values: Sequence[float]) -> Any:
    """An axis with a tick for each power of ten around `values`, or each second one where there are many."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    powers = range(low, high + 1, 1 if high - low <= 9 else 2)
    labels = [f"10{raised(power)}" if power else "1" for power in range(low, high + 1)]
    return altair.Axis(
        values=[10.0**power for power in powers],
        labelExpr=f"{json.dumps(labels, ensure_ascii=False)}[round(log(datum.value) / LN10) - ({low})]",
        grid=True,
    )
