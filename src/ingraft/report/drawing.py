"""Vega-Lite charts, drawn here and now as SVG that needs no script.

Colours are the page's own variables, so that a plot follows it into dark mode and onto paper.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair

INK, MUTED, LINE, ACCENT, PAPER = (f"var(--{name})" for name in ("ink", "muted", "line", "accent", "paper"))
_FONT = "system-ui, sans-serif"
WIDE = 760  # of the widest plot; the page shrinks what is wider
_count = itertools.count()


def chart(rows: Sequence[Mapping[str, Any]], title: str = "") -> Any:
    """A chart of `rows`, whose columns' types the encodings name."""
    return altair.Chart.from_dict(
        {"data": {"values": list(rows)}, "mark": "point", **({"title": title} if title else {})}
    )


def svg(chart: Any, *, names: Sequence[str] = ()) -> str:
    """The chart as SVG, with ids that are its own in the page.

    names  labels at its left: a reader's font may be a fifth wider than the one that they were measured in
    """
    padding = {"left": 2 + 1.5 * max(map(len, names), default=0), "top": 2, "right": 4, "bottom": 2}
    drawn = chart.configure(background="transparent", font=_FONT, padding=padding)
    drawn = drawn.configure_view(stroke=None)
    drawn = drawn.configure_axis(
        labelColor=INK, titleColor=MUTED, gridColor=LINE, domainColor=LINE, tickColor=LINE,
        labelFontSize=11, titleFontSize=11, labelFont=_FONT, titleFont=_FONT, titleFontWeight="normal", titlePadding=8,
    )  # fmt: skip
    drawn = drawn.configure_legend(labelColor=INK, labelFontSize=11, symbolOpacity=1)
    drawn = drawn.configure_header(labelColor=INK, labelFontSize=12, labelFontWeight="bold", labelFont=_FONT)
    drawn = drawn.configure_title(color=INK, fontSize=12, fontWeight="bold", anchor="start")
    buffer = io.StringIO()
    drawn.save(buffer, format="svg")
    drawing = buffer.getvalue()
    own = f"p{next(_count)}-"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{own}", drawing)
