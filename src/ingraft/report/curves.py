"""The plots of a training run: losses, learning rates and what checkpoints measured, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair

from ingraft.report.drawing import ACCENT, MUTED, WIDE, chart, svg
from ingraft.report.words import fixed, number

_MOST_DOTS = 60  # more would hide the line


def losses(course: Mapping[str, Any], last: int) -> str:
    """The mean loss of each stretch of steps; empty where none was logged. `last` is the run's last step."""
    rows = [
        {"step": step, "value": loss, "label": f"step {step}: loss {number(loss)}"}
        for step, loss in zip(course["steps"], course["losses"], strict=True)
    ]
    return _line(rows, last, "loss", height=200)


def learning_rates(course: Mapping[str, Any], last: int) -> str:
    rows = [
        {"step": step, "value": rate, "label": f"step {step}: learning rate {number(rate)}"}
        for step, rate in zip(course["steps"], course["learning_rates"], strict=True)
    ]
    return _line(rows, last, "learning rate", height=70, color=MUTED, zero=True)


def checkpoints(course: Mapping[str, Any], metric: str, best: int, last: int) -> str:
    """What `metric` was at each checkpoint, and a line at the best one."""
    rows = [
        {"step": int(step), "value": metrics[metric], "label": f"step {step}: {metric} {fixed(metrics[metric])}"}
        for step, metrics in course["measured"].items()
    ]
    return _line(rows, last, metric, height=140, mark=best)


def _line(
    rows: Sequence[Mapping[str, Any]],
    last: int,
    name: str,
    *,
    height: int,
    color: str = ACCENT,
    zero: bool = False,
    mark: int | None = None,
) -> str:
    if not rows:
        return ""
    ticks = altair.Axis(tickMinStep=1, grid=False)
    x = altair.X("step:Q", title="step", scale=altair.Scale(domain=[0, max(last, 1)], nice=False), axis=ticks)
    y = altair.Y(
        "value:Q",
        title=name,
        scale=altair.Scale(zero=zero, padding=0 if zero else 6),
        axis=altair.Axis(tickCount=max(2, height // 35)),
    )
    drawn = chart(rows).mark_line(stroke=color, strokeWidth=1.5, aria=False).encode(x=x, y=y)
    # Dots are what a pointer finds: where there are many, they are there and not seen.
    opacity = 1.0 if len(rows) <= _MOST_DOTS else 0.0
    drawn += chart(rows).mark_circle(size=28, color=color, opacity=opacity).encode(x=x, y=y, description="label:N")
    if mark is not None:
        rule = chart([{"step": mark, "label": f"step {mark} is the best"}])
        drawn += rule.mark_rule(stroke=MUTED, strokeDash=[3, 3]).encode(x=x, description="label:N")
    return svg(drawn.properties(width=WIDE - 60, height=height))
