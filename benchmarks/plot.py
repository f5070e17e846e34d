"""Line plots with logarithmic axes as SVG, readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_COLOURS = ("#d1495b", "#e59500", "#00798c", "#6cc0c9", "#888888")
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 330, 240, 52, 34, 46, 40


@dataclass(frozen=True)
class Line:
    """Points (x, y), both above zero."""

    key: str
    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    title: str
    lines: tuple[Line, ...]


def draw(x_title: str, panels: Sequence[Panel]) -> str:
    """Panels side by side over the same x axis, with one legend below; a line has one colour in all panels."""
    keys = list(dict.fromkeys(line.key for panel in panels for line in panel.lines))
    colours = {key: _COLOURS[index % len(_COLOURS)] for index, key in enumerate(keys)}
    width = len(panels) * (_LEFT + _WIDTH + _GAP)
    legend_top = _TOP + _HEIGHT + _BOTTOM + 10
    labels = {line.key: line.label for panel in panels for line in panel.lines}
    height = legend_top + 20 * math.ceil(len(labels) / 2) + 6
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#808080">'
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate({index * (_LEFT + _WIDTH + _GAP) + _LEFT} {_TOP})">')
        parts += [*_panel(panel, x_title, colours), "</g>"]
    for index, (key, label) in enumerate(labels.items()):
        x, y = _LEFT + (index % 2) * width // 2, legend_top + 20 * (index // 2)
        parts.append(f'<rect x="{x}" y="{y}" width="18" height="4" fill="{colours[key]}"/>')
        parts.append(f'<text x="{x + 26}" y="{y + 7}">{escape(label)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, x_title: str, colours: dict[str, str]) -> list[str]:
    points = [point for line in panel.lines for point in line.points]
    x_axis, y_axis = _Axis([x for x, _ in points], _WIDTH), _Axis([y for _, y in points], _HEIGHT)
    parts = [f'<text x="{_WIDTH / 2}" y="-14" text-anchor="middle" font-weight="600">{escape(panel.title)}</text>']
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 38}" text-anchor="middle">{escape(x_title)}</text>')
    for value in x_axis.ticks():
        x = x_axis.at(value)
        parts.append(f'<path d="M{x:.1f} 0V{_HEIGHT}" stroke="#808080" stroke-opacity=".25"/>')
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT + 18}" text-anchor="middle">{value:g}</text>')
    for value in y_axis.ticks():
        y = _HEIGHT - y_axis.at(value)
        parts.append(f'<path d="M0 {y:.1f}H{_WIDTH}" stroke="#808080" stroke-opacity=".25"/>')
        parts.append(f'<text x="-8" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for line in panel.lines:
        places = [(x_axis.at(x), _HEIGHT - y_axis.at(y)) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colours[line.key]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colours[line.key]}"/>' for x, y in places]
    return parts


class _Axis:
    """A logarithmic axis over all `values`, with a little room at both ends."""

    def __init__(self, values: Sequence[float], length: float) -> None:
        self._low, self._high = math.log10(min(values)) - 0.08, math.log10(max(values)) + 0.08
        self._length = length

    def at(self, value: float) -> float:
        return (math.log10(value) - self._low) / (self._high - self._low) * self._length

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten; of a long axis the powers alone."""
        steps = (1, 2, 5) if self._high - self._low < 2.2 else (1, 3)
        exponents = range(math.floor(self._low), math.ceil(self._high) + 1)
        candidates = [step * 10.0**exponent for exponent in exponents for step in steps]
        return [float(f"{value:.3g}") for value in candidates if self._low <= math.log10(value) <= self._high]
