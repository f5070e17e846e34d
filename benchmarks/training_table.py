"""`training.md` from the runs that `training.py` made."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.markdown import circumstances, table
from benchmarks.measure import QUIET_CORES

Measured = Mapping[str, Any]

BASE, INGRAFT, BARE = "base model", "LoRA, all linear layers", "the same LoRA, bare script"
QUERY_VALUE, DORA, FULL = "LoRA, query and value", "DoRA, all linear layers", "full fine-tuning, bare script"
# What `learning_rate: auto` takes for this base.
RATE = 1e-3
_ORDER = (BASE, QUERY_VALUE, INGRAFT, BARE, DORA, FULL)
_HOW = """\
Written by `make bench-training` (see [README.md](README.md)) from the runs in `results/training.json`.
all-MiniLM-L6-v2 (22.7 M parameters, float32) learns to find the title of a diagnosis of ICD-10-CM from another name
of it: one epoch in batches of 64, MultipleNegativesRankingLoss, no text twice in a batch. The queries and the titles
among which they look are of categories that no pair is from, and the same for all. Each seed draws its own pairs, and
sets the adapter's first weights, the order of the pairs and dropout. Every run is a process of its own on one thread,
measured by the kernel (`wait4`) from its start, imports included, to its exit."""


def page(runs: Sequence[Measured], machine: Measured) -> str:
    """The whole page; a part that was not measured is left out."""
    methods = [run for run in runs if run["part"] == "methods"]
    rates = [run for run in runs if run["part"] == "rates"]
    # The same training, measured for the first table.
    rates += [run for run in methods if rates and run["contender"] == INGRAFT and run["seed"] == 0]
    parts = ["# Training", _HOW]
    if methods:
        parts += ["## Quality, time, memory, size", _methods(methods), _notes(methods)]
    if {run["contender"] for run in methods} >= {INGRAFT, BARE}:
        parts += ["## What `ingraft train` costs over a bare script", _overhead(methods)]
    if rates:
        ranks = [run for run in rates if run["pairs"] == _usual_pairs(rates)]
        parts += ["## Learning rate and rank", _grid(ranks, "rank"), "## Learning rate and number of pairs"]
        parts += [_grid([run for run in rates if run["rank"] == 8], "pairs"), _RATES]
    return "\n\n".join([*parts, circumstances(machine, methods)]) + "\n"


def better_rate(runs: Sequence[Measured]) -> float | None:
    """Of the rates of full fine-tuning that were tried, the one with the higher nDCG@10; None before there is any."""
    tried = [run for run in runs if run["contender"] == FULL and run["seed"] == 0]
    return max(tried, key=lambda run: run["nDCG@10"])["rate"] if tried else None


def _methods(runs: Sequence[Measured]) -> str:
    rows = []
    for name in _ORDER:
        mine = [run for run in runs if run["contender"] == name]
        if name == FULL:
            mine = [run for run in mine if run["rate"] == better_rate(mine)]
        rated = [run for run in mine if name in (BASE, FULL) or run["rate"] == RATE]
        if not rated:
            continue
        quality = [_spread([run[metric] for run in rated], ".4f") for metric in ("nDCG@10", "accuracy@1")]
        if name == BASE:
            rows.append([name, "", *quality, *[""] * 5])
            continue
        first, timed = mine[0], _undisturbed(mine)
        rows.append(
            [
                name,
                str(len(rated)),
                *quality,
                f"{100 * first['trainable'] / first['parameters']:.3g} %",
                _spread([1000 * run["train"] / run["pairs"] for run in timed], ".1f") if timed else "disturbed",
                _spread([1000 * run["seconds"] / run["pairs"] for run in timed], ".1f") if timed else "disturbed",
                f"{statistics.median(run['peak'] for run in mine) / 1e6:,.0f} MB",
                f"{first['nbytes'] / 1e6:.3g} MB",
            ]
        )
    head = [
        "",
        "seeds",
        "nDCG@10",
        "accuracy@1",
        "trained",
        "loop, s per 1,000 pairs",
        "process",
        "peak memory",
        "on disk",
    ]
    return table(head, rows)


def _undisturbed(runs: Sequence[Measured]) -> list[Measured]:
    """The runs whose times say something: those during which nobody else was busy."""
    return [run for run in runs if (run["others"] or 0.0) <= QUIET_CORES]


def _notes(runs: Sequence[Measured]) -> str:
    full = [run for run in runs if run["contender"] == FULL]
    one = next(run for run in runs if run["contender"] != BASE)
    tried = ", ".join(f"{run['nDCG@10']:.4f} at {run['rate']:g}" for run in full if run["seed"] == 0)
    best = better_rate(full)
    lines = [
        f"Means over the seeds, smallest and largest in brackets; {one['pairs']:,} pairs. Adapters: rank 8, "
        f"α 32, dropout 0.1, learning rate {RATE:g}. Times, which no learning rate changes, are those of runs during "
        f"which others kept at most {QUIET_CORES} cores busy."
    ]
    if best is not None:
        lines.append(
            f"Full fine-tuning: learning rate {best:g}, the better of two that the first seed tried (nDCG@10 {tried}). "
            "It was chosen on the queries that are reported, as the adapters' rate was."
        )
    return " ".join(lines)


def _overhead(runs: Sequence[Measured]) -> str:
    """Each round's whole processes side by side, and what of them is not the trainer's loop."""
    ours, bare = (
        {(run["rate"], run["seed"]): run for run in _undisturbed([run for run in runs if run["contender"] == name])}
        for name in (INGRAFT, BARE)
    )
    rounds = sorted({*ours} & {*bare})
    if not rounds:
        return (
            f"Not known yet: in every round others kept more than {QUIET_CORES} cores busy. Measure it with --tries 3."
        )
    measures: Mapping[str, Callable[[Measured], float]] = {
        "whole process": lambda run: run["seconds"],
        "CPU time": lambda run: run["cpu"],
        "loop": lambda run: run["train"],
        "all but the loop": lambda run: run["seconds"] - run["train"],
    }
    rows = []
    for number, key in enumerate(rounds, start=1):
        both = [(measure(ours[key]), measure(bare[key])) for measure in measures.values()]
        rows.append([str(number), *(f"{one:.1f} s / {other:.1f} s = {one / other:.3f}" for one, other in both)])
    medians = [
        statistics.median(measure(ours[key]) / measure(bare[key]) for key in rounds) for measure in measures.values()
    ]
    rows.append(["median", *(f"{100 * (ratio - 1):+.1f} %" for ratio in medians)])
    said = "`ingraft train` / bare script: the same model, adapter, data, sampler, loss and seed, nothing evaluated."
    if all(ours[key]["loss"] == bare[key]["loss"] for key in rounds):
        said += " The last loss of both is the same number in every round: they do the same arithmetic."
    return table(["round", *measures], rows) + "\n\n" + said


_RATES = """\
nDCG@10 of one seed, α = 4·r; the best of a row is bold. One small model and one set of data: differences below the
spread above mean nothing."""


def _grid(runs: Sequence[Measured], key: str) -> str:
    rates = sorted({run["rate"] for run in runs})
    rows = []
    for value in sorted({run[key] for run in runs}):
        found = {run["rate"]: run["nDCG@10"] for run in runs if run[key] == value}
        best = max(found.values())
        cells = [f"{found[rate]:.4f}" if rate in found else "" for rate in rates]
        marked = [f"**{cell}**" if cell == f"{best:.4f}" else cell for cell in cells]
        rows.append([f"{value:,}", *marked])
    return table([key, *(f"{rate:g}" for rate in rates)], rows)


def _usual_pairs(runs: Sequence[Measured]) -> int:
    """The number of pairs at which ranks were compared."""
    ranks = {pairs: len({run["rank"] for run in runs if run["pairs"] == pairs}) for pairs in (r["pairs"] for r in runs)}
    return int(max(ranks, key=lambda pairs: ranks[pairs]))


def _spread(values: Sequence[float], form: str) -> str:
    text = f"{statistics.mean(values):{form}}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}}–{max(values):{form}})"
