"""Numbers and names as a person reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any) -> str:
    """Three digits: `0.0123`, `4.1 × 10⁻⁷`; whole numbers in full, with commas; `–` for None."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, exponent = f"{value:.2e}".replace("-", "−", value < 0).split("e")
    return f"{mantissa.rstrip('0').rstrip('.')} × 10{raised(int(exponent))}"


def raised(exponent: int) -> str:
    """`⁻⁷`."""
    return str(exponent).translate(_RAISED)


def percent(share: float | None) -> str:
    """`7.6 %`, `99.9998 %`; never rounded up to 100 % or down to 0 %."""
    if share is None:
        return "–"
    if 0.9995 <= share < 1:
        places = min(7, -math.floor(math.log10(100 * (1 - share))))
        return f"{math.floor(100 * share * 10**places) / 10**places:.{places}f} %"
    if 0 < share < 1e-5:
        return "< 0.001 %"
    return f"{100 * share:.3g} %"


def fixed(value: float) -> str:
    """Four places, with a minus that is as wide as a plus."""
    return f"{value:.4f}".replace("-", "−")


def limit(value: Any) -> str:
    """What a check's value is held against: a count is to be met, a measure not to be passed."""
    if value is None:
        return "–"
    return f"of {number(value)}" if isinstance(value, int) else f"≤ {number(value)}"


def against(value: Any, limit: Any) -> str:
    """`67 of 68`, `231 where 1 is allowed`."""
    if limit is None:
        return number(value)
    return (
        f"{number(value)} of {number(limit)}"
        if isinstance(limit, int)
        else f"{number(value)} where {number(limit)} is allowed"
    )


def times(ratio: float) -> str:
    """`120,000`, with two digits that mean something."""
    if not math.isfinite(ratio):
        return "∞"
    if ratio < 100:
        return f"{ratio:.2g}"
    size = 10 ** (math.floor(math.log10(ratio)) - 1)
    return f"{round(ratio / size) * size:,.0f}"


def shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def short_name(name: str) -> str:
    """The last part of a path; a Hub id as it is."""
    path = Path(name)
    return path.name if path.is_absolute() and path.name else name
