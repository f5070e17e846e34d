"""Raw measurements as JSON in `results/`, and `results.md` with its plots, always written from all of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import (
    COPY,
    INGRAFT,
    INGRAFT_UNPROVEN,
    MERGES,
    PEFT,
    PLAN,
    SENTENCE_TRANSFORMERS,
    START_UP,
    Contender,
)
from benchmarks.markdown import circumstances, table
from benchmarks.plot import Line, Panel, draw

_HERE = Path(__file__).parent
RAW = _HERE / "results"
Measured = Mapping[str, Any]


def save(benchmark: str, key: str, measured: Measured) -> None:
    """Keep `measured` in the place of what `key` had before, and write `results.md` and the plot anew."""
    RAW.mkdir(exist_ok=True)
    path = RAW / f"{benchmark}.json"
    kept = _load(benchmark)
    kept[key] = measured
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    render()


def render() -> None:
    """`results.md` and `merge.svg` from the raw measurements."""
    merges = sorted(_load("merge").values(), key=lambda measured: (measured["nbytes"], measured["cache"] == "cold"))
    ranks, methods = list(_load("ranks").values()), list(_load("methods").values())
    proofs = list(_load("verification").values())
    parts = ["# Results", _HOW]

    def section(title: str, every: Sequence[Measured], table: Callable[[Measured], str]) -> list[str]:
        return [title, *(part for one in every for part in (_title(one), table(one), _circumstances(one)))]

    if merges:
        plot = _HERE / "merge.svg"
        plot.write_text(_merge_plot([one for one in merges if one["cache"] == "warm"]), encoding="utf-8")
        parts += ["![Time and peak memory against model size](merge.svg)"]
        parts += section(_ratios_table(merges), merges, merge_table)
    if ranks:
        parts += section("# Adapter ranks", ranks, lambda measured: adapters_table(measured, "rank"))
    if methods:
        parts += section("# Methods", methods, lambda measured: adapters_table(measured, "method"))
    if proofs:
        parts += section("# The proof alone", proofs, proof_table)
    (_HERE / "results.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_HOW = """\
Written by `make bench` (see [README.md](README.md)) from the raw measurements in `results/`. Every row is a whole
process, measured by the kernel (`wait4`) from its start, imports included, to its exit. Times are medians, with the
fastest and the slowest run in brackets. `ingraft` and `cp` end when the disk has the bytes (`fsync`); the others do
not wait for it."""


def _load(benchmark: str) -> dict[str, Any]:
    path = RAW / f"{benchmark}.json"
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return kept


def median(runs: Sequence[Measured], key: str) -> float:
    return float(statistics.median(run[key] for run in runs))


def own_seconds(runs: Measured, contender: Contender) -> float:
    """The median time of a merge less that of its start-up alone."""
    return median(runs[contender.key], "seconds") - median(runs[START_UP.key], "seconds")


def print_merge(measured: Measured) -> None:
    tables = (merge_table(measured), "", _ratios_table([measured]))
    print("\n".join((_title(measured), "", *tables, "", _circumstances(measured))))


def print_adapters(measured: Measured, kind: str) -> None:
    print("\n".join((_title(measured), "", adapters_table(measured, kind), "", _circumstances(measured))))


def print_proof(measured: Measured) -> None:
    print("\n".join((_title(measured), "", proof_table(measured), "", _circumstances(measured))))


def merge_table(measured: Measured) -> str:
    """Every contender's time, against cp, with and without start-up."""
    runs = measured["runs"]
    copy = median(runs[COPY.key], "seconds")
    rows = []
    for contender in (COPY, PLAN, START_UP, *MERGES):
        mine = runs.get(contender.key)
        if mine is None:
            rows.append([_code(contender), "not enough memory", *[""] * 5])
            continue
        own = own_seconds(runs, contender) if contender in (INGRAFT, INGRAFT_UNPROVEN) else None
        rows.append(
            [
                _code(contender),
                _spread(mine, "seconds"),
                f"{median(mine, 'seconds') / copy:.2f}",
                "" if own is None else f"{own:.2f} s",
                "" if own is None else f"{own / copy:.2f}",
                f"{median(mine, 'cpu'):.1f} s",
                _megabytes(median(mine, "peak")),
            ]
        )
    head = ["process", "time", "/ cp", "without start-up", "/ cp", "CPU time", "peak memory"]
    return table(head, rows)


def _ratios_table(merges: Sequence[Measured]) -> str:
    """The ratios that the project promises, each with its goal."""
    rows = []
    for measured in merges:
        runs = measured["runs"]
        copy = median(runs[COPY.key], "seconds")
        whole = median(runs[INGRAFT.key], "seconds")
        above = median(runs[INGRAFT.key], "peak") - measured["adapter_nbytes"]
        rows.append(
            [
                f"{measured['model']} ({measured['cache']})",
                f"{own_seconds(runs, INGRAFT_UNPROVEN) / copy:.2f}",
                f"{own_seconds(runs, INGRAFT) / copy:.2f}",
                *(
                    f"{median(runs[contender.key], 'seconds') / whole:.1f} ×" if contender.key in runs else ""
                    for contender in (PEFT, SENTENCE_TRANSFORMERS)
                ),
                _megabytes(above),
            ]
        )
    faster = ["faster than PEFT", "than Sentence Transformers"]
    return table(["base", "no proof / cp", "with proof / cp", *faster, "memory above the adapter"], rows)


def adapters_table(measured: Measured, kind: str) -> str:
    """One row per adapter; ratios of times without start-up, against the first."""
    rows = []
    first = next(iter(measured["adapters"].values()))["runs"]
    for name, entry in measured["adapters"].items():
        ours, unproven = entry["runs"][INGRAFT.key], entry["runs"][INGRAFT_UNPROVEN.key]
        above = median(ours, "peak") - entry["adapter_nbytes"]
        times = [_spread(ours, "seconds"), f"{own_seconds(entry['runs'], INGRAFT) / own_seconds(first, INGRAFT):.2f}"]
        times += [_spread(unproven, "seconds")]
        times += [f"{own_seconds(entry['runs'], INGRAFT_UNPROVEN) / own_seconds(first, INGRAFT_UNPROVEN):.2f}"]
        memory = [_megabytes(median(ours, "peak")), _megabytes(above)]
        rows.append([name, _megabytes(entry["adapter_nbytes"]), *times, *memory])
    against = "/ first, without start-up"
    head = [kind, "adapter", "`ingraft merge`", against, "`--no-verify`", against]
    return table([*head, "peak memory", "above the adapter"], rows)


def proof_table(measured: Measured) -> str:
    read = median(measured["runs"]["read"], "seconds")
    rows = [
        [what, _spread(runs, "seconds"), f"{median(runs, 'seconds') / read:.2f}", f"{median(runs, 'cpu'):.1f} s"]
        for what, runs in ((measured["what"][key], runs) for key, runs in measured["runs"].items())
    ]
    return table(["", "time", "/ reading", "CPU time"], rows)


def _title(measured: Measured) -> str:
    cache = {"warm": "base in the page cache", "cold": "base not in the page cache"}[measured["cache"]]
    return f"## {measured['model']}, {measured['nbytes'] / 1e9:.2f} GB, {cache}"


def _circumstances(measured: Measured) -> str:
    groups = measured.get("runs") or {
        f"{rank} {key}": runs for rank, entry in measured["adapters"].items() for key, runs in entry["runs"].items()
    }
    every = [run for runs in groups.values() for run in runs]
    lines = [circumstances(measured["machine"], every, rounds=max(map(len, groups.values())))]
    if "equal_to_ingraft" in measured:
        equal = measured["equal_to_ingraft"]
        loading = [contender for contender in (PEFT, SENTENCE_TRANSFORMERS) if contender.key in equal]
        kinds = ", ".join(f"{c.what.split(':')[0]} {100 * equal[c.key]:.4g} %" for c in loading)
        if kinds:
            lines.append(f"Elements equal to ingraft's bit for bit, in samples of three matrices: {kinds}.")
    return "  \n".join(lines)


def _merge_plot(merges: Sequence[Measured]) -> str:
    def line(contender: Contender, value: Callable[[Sequence[Measured]], float]) -> Line:
        with_it = [one for one in merges if contender.key in one["runs"]]
        points = [(one["nbytes"] / 1e9, value(one["runs"][contender.key])) for one in with_it]
        return Line(contender.key, contender.what, tuple(points))

    drawn = (PEFT, SENTENCE_TRANSFORMERS, INGRAFT, INGRAFT_UNPROVEN, COPY)
    seconds = Panel("seconds, whole process", tuple(line(c, lambda runs: median(runs, "seconds")) for c in drawn))
    merging = [contender for contender in drawn if contender is not COPY]
    memory = Panel("peak memory in GB", tuple(line(c, lambda runs: median(runs, "peak") / 1e9) for c in merging))
    return draw("model size in GB", (seconds, memory))


def _code(contender: Contender) -> str:
    return f"`{contender.what}`" if contender.key.startswith("ingraft") else contender.what


def _spread(runs: Sequence[Measured], key: str) -> str:
    values = [run[key] for run in runs]
    text = f"{statistics.median(values):.2f} s"
    return text if len(values) == 1 else f"{text} ({min(values):.2f}–{max(values):.2f})"


def _megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.0f} MB"
