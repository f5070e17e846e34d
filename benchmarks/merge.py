"""ingraft against PEFT, Sentence Transformers and cp -r: whole processes in turn, medians and ratios."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import COPY, INGRAFT, MERGES, PLAN, START_UP, Contender, environment
from benchmarks.machine import available_memory, describe
from benchmarks.measure import files_below, fresh, quiet_run
from benchmarks.models import SHAPES
from benchmarks.results import print_merge, save
from benchmarks.sameness import equal_share, sample
from benchmarks.workplace import Workplace, options

RANK = 16
QUICK = ("all-MiniLM-L6-v2", "Qwen3-0.6B")
DEFAULT = (*QUICK, "Qwen2-1.5B")
FULL = (*DEFAULT, "Qwen2-7B")


def main() -> None:
    parser = options(__doc__ or "")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="up to 1.2 GB, one round, in three minutes; saves nothing")
    size.add_argument("--full", action="store_true", help="with the model of 14 GB: 45 GB of disk, half an hour")
    size.add_argument("--models", nargs="+", choices=SHAPES, help="only these")
    chosen = parser.parse_args()
    place = Workplace(chosen.dir)
    for name in chosen.models or (QUICK if chosen.quick else FULL if chosen.full else DEFAULT):
        place.build(name, RANK, SHAPES[name].nbytes)
        rounds = 1 if chosen.quick else chosen.rounds
        measured = measure(place, name, rounds=rounds, cold=chosen.cold, tries=chosen.tries)
        print_merge(measured)
        if not (chosen.quick or chosen.no_save):
            save("merge", f"{name}, {measured['cache']}", measured)


def measure(place: Workplace, name: str, *, rounds: int, cold: bool, tries: int) -> dict[str, Any]:
    """Every contender `rounds` times in turn, each round beginning with the next one; facts in JSON types."""
    base, adapter = place.base(name), place.adapter(name, RANK)
    inputs = [*files_below(base), *files_below(adapter)]
    contenders = [COPY, PLAN, START_UP, *(contender for contender in MERGES if _fits(contender, place, name))]
    runs: dict[str, list[dict[str, Any]]] = {contender.key: [] for contender in contenders}
    samples: dict[str, array[int]] = {}
    for turn in range(rounds):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            run = quiet_run(
                lambda: fresh(place.output, inputs, cold=cold),
                contender.command_for(base, adapter, place.output),
                environment=environment(),
                tries=tries,
            )
            runs[contender.key].append(run.facts())
            print(f"{name} · {turn + 1} of {rounds} · {contender.what}: {run.seconds:.2f} s", file=sys.stderr)
            if contender in MERGES and turn == 0:
                samples[contender.key] = sample(place.output)
    fresh(place.output, [], cold=False)
    if equal_share(samples[INGRAFT.key], sample(base)) == 1.0:
        raise SystemExit("The merge changed nothing: nothing was measured.")
    return {
        "model": name,
        "nbytes": sum(path.stat().st_size for path in place.weights(name)),
        "adapter_nbytes": sum(path.stat().st_size for path in files_below(adapter)),
        "rank": RANK,
        "cache": "cold" if cold else "warm",
        "machine": describe(place.root),
        "runs": runs,
        "equal_to_ingraft": {key: equal_share(samples[INGRAFT.key], taken) for key, taken in samples.items()},
    }


def _fits(contender: Contender, place: Workplace, name: str) -> bool:
    """Has the machine the memory for it? Who loads the whole model is left out rather than killed."""
    if not contender.loads_the_model:
        return True
    needed = 1.2 * sum(path.stat().st_size for path in place.weights(name)) + 1e9
    fits = available_memory() > needed
    if not fits:
        print(f"{name} · {contender.what} is left out: it needs about {needed / 1e9:.0f} GB of memory", file=sys.stderr)
    return fits


if __name__ == "__main__":
    main()
