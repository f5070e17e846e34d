"""The unmerged model: base + adapter live, through PEFT's own layers. What a merge must be equal to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingraft.adapted.load import load_adapted

__all__ = ["load_adapted"]


def __getattr__(name: str) -> Any:
    if name == "load_adapted":
        from ingraft.adapted.load import load_adapted

        return load_adapted
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
