"""The numbers in module names, which count layers, blocks and experts."""

from __future__ import annotations

import re
from collections.abc import Iterable

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")


def layer_span(modules: Iterable[str]) -> str:
    """`6 layers` for modules that differ in their first number, or nothing."""
    layers = {found.group() for module in modules if (found := NUMBER.search(module))}
    return f"{len(layers)} layer{'' if len(layers) == 1 else 's'}" if layers else ""
