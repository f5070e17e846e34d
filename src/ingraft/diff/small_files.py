"""Files beside the weights: the same bytes, or what differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ingraft.files import parse_json

State = Literal["equal", "changed", "only in a", "only in b"]
_CHUNK = 1 << 20
_MOST_DETAIL = 16 * 1024 * 1024
_NOTHING = object()


@dataclass(frozen=True)
class FileDiff:
    """path is relative to the directory; `detail` says in a few words what differs, where that can be told."""

    path: str
    state: State
    detail: str = ""


def compare_files(a: Mapping[str, Path], b: Mapping[str, Path]) -> tuple[FileDiff, ...]:
    """Every file of either side, in the order of their paths; byte for byte."""
    return tuple(_compare(path, a.get(path), b.get(path)) for path in sorted({*a, *b}))


def _compare(path: str, a: Path | None, b: Path | None) -> FileDiff:
    if b is None:
        return FileDiff(path, "only in a")
    if a is None:
        return FileDiff(path, "only in b")
    if same_content(a, b):
        return FileDiff(path, "equal")
    return FileDiff(path, "changed", _json_detail(a, b) or f"{a.stat().st_size:,} → {b.stat().st_size:,} bytes")


def same_content(a: Path, b: Path) -> bool:
    if a.stat().st_size != b.stat().st_size:
        return False
    with a.open("rb") as left, b.open("rb") as right:
        while block := left.read(_CHUNK):
            if block != right.read(_CHUNK):
                return False
    return True


def _json_detail(a: Path, b: Path) -> str:
    """The keys of two JSON objects that differ: `torch_dtype "float32" → "bfloat16"`; nothing for anything else."""
    if a.suffix != ".json" or max(a.stat().st_size, b.stat().st_size) > _MOST_DETAIL:
        return ""
    try:
        before, after = (parse_json(path.read_text(encoding="utf-8")) for path in (a, b))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    if before == after:
        return "the same values, written differently"
    keys = [key for key in {**before, **after} if before.get(key, _NOTHING) != after.get(key, _NOTHING)]
    shown = [f"{key} {_short(before, key)} → {_short(after, key)}" for key in keys[:3]]
    return ", ".join(shown) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _short(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 40 else "…"
