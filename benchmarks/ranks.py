"""Time and memory of a merge against the adapter's rank, from 4 to 256."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import INGRAFT, INGRAFT_UNPROVEN, START_UP, environment
from benchmarks.machine import describe
from benchmarks.measure import files_below, fresh, quiet_run
from benchmarks.models import SHAPES
from benchmarks.results import print_adapters, save
from benchmarks.workplace import Workplace, options

RANKS = (4, 8, 16, 32, 64, 128, 256)
_CONTENDERS = (START_UP, INGRAFT, INGRAFT_UNPROVEN)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--model", choices=SHAPES, default="Qwen3-0.6B", help="the base to merge into")
    chosen = parser.parse_args()
    place = Workplace(chosen.dir)
    for rank in RANKS:
        place.build(chosen.model, rank, SHAPES[chosen.model].nbytes)
    measured = measure(place, chosen.model, RANKS, rounds=chosen.rounds, cold=chosen.cold, tries=chosen.tries)
    print_adapters(measured, "rank")
    if not chosen.no_save:
        save("ranks", f"{chosen.model}, {measured['cache']}", measured)


def measure(
    place: Workplace, name: str, kinds: Sequence[str | int], *, rounds: int, cold: bool, tries: int
) -> dict[str, Any]:
    """Every adapter with and without the proof, `rounds` times in turn; facts in JSON types."""
    base = place.base(name)
    adapters: dict[str, dict[str, Any]] = {
        str(kind): {
            "adapter_nbytes": sum(path.stat().st_size for path in files_below(place.adapter(name, kind))),
            "runs": {contender.key: [] for contender in _CONTENDERS},
        }
        for kind in kinds
    }
    for turn in range(rounds):
        for kind in kinds:
            adapter = place.adapter(name, kind)
            inputs = [*files_below(base), *files_below(adapter)]
            for contender in _CONTENDERS:
                run = quiet_run(
                    lambda inputs=inputs: fresh(place.output, inputs, cold=cold),  # type: ignore[misc]
                    contender.command_for(base, adapter, place.output),
                    environment=environment(),
                    tries=tries,
                )
                adapters[str(kind)]["runs"][contender.key].append(run.facts())
                done = f"{turn + 1} of {rounds} · {kind} · {contender.what}"
                print(f"{name} · {done}: {run.seconds:.2f} s", file=sys.stderr)
    fresh(place.output, [], cold=False)
    return {
        "model": name,
        "nbytes": sum(path.stat().st_size for path in place.weights(name)),
        "cache": "cold" if cold else "warm",
        "machine": describe(place.root),
        "adapters": adapters,
    }


if __name__ == "__main__":
    main()
