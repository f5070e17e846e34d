"""What every page of results has: tables, and the machine that the numbers are from."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def circumstances(machine: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], *, rounds: int | None = None) -> str:
    """Date, machine and versions, and what other processes did during `runs`."""
    versions = " · ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['date']} · {f'rounds: {rounds} · ' if rounds else ''}{machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory'] / 1e9:.0f} GB, {machine['system']}, {machine['file_system']}",
        versions,
    ]
    others = [run["others"] for run in runs if run.get("others") is not None]
    if others:
        lines.append(
            f"Other processes kept {statistics.median(others):.2f} cores busy during the median run, "
            f"{max(others):.2f} during the worst."
        )
    return "  \n".join(lines)
