"""The weight proof alone, against the least that it can take: reading base and merged model once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import INGRAFT_UNPROVEN, environment
from benchmarks.machine import describe
from benchmarks.measure import files_below, fresh, quiet_run
from benchmarks.models import SHAPES
from benchmarks.results import print_proof, save
from benchmarks.workplace import HERE, Workplace, options

RANK = 16
WHAT = {
    "read": "`cat` of both models to /dev/null",
    "hash": "`sha256sum` of both models",
    "proof": "the proof",
    "proof-own": "the proof without start-up and plan",
}


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=["Qwen3-0.6B", "Qwen2-1.5B"], help="the bases")
    chosen = parser.parse_args()
    place = Workplace(chosen.dir)
    for name in chosen.models:
        place.build(name, RANK, SHAPES[name].nbytes)
        measured = measure(place, name, rounds=chosen.rounds, cold=chosen.cold, tries=chosen.tries)
        print_proof(measured)
        if not chosen.no_save:
            save("verification", f"{name}, {measured['cache']}", measured)


def measure(place: Workplace, name: str, *, rounds: int, cold: bool, tries: int) -> dict[str, Any]:
    """Merge once, then prove `rounds` times what was written; facts in JSON types."""
    base, adapter = place.base(name), place.adapter(name, RANK)
    fresh(place.output, [], cold=False)
    merge = INGRAFT_UNPROVEN.command_for(base, adapter, place.output)
    subprocess.run(merge, env=environment(), check=True, capture_output=True)
    both = [str(path) for folder in (base, place.output) for path in sorted(folder.glob("*.safetensors"))]
    inputs = [*files_below(base), *files_below(adapter), *files_below(place.output)]
    commands = {
        "read": ["sh", "-c", 'cat "$@" > /dev/null', "cat", *both],
        "hash": ["sha256sum", *both],
        "proof": [sys.executable, str(HERE / "contenders/proof_only.py"), str(base), str(adapter), str(place.output)],
    }
    runs: dict[str, list[dict[str, Any]]] = {key: [] for key in WHAT}
    for turn in range(rounds):
        for key, command in commands.items():
            run = quiet_run(lambda: fresh(None, inputs, cold=cold), command, environment=environment(), tries=tries)
            facts = {"seconds": run.seconds, "cpu": run.cpu, "peak": run.peak, "others": run.others}
            runs[key].append(facts)
            if key == "proof":
                seconds, cpu = (float(number) for number in run.output.split())
                runs["proof-own"].append({**facts, "seconds": seconds, "cpu": cpu})
            print(f"{name} · {turn + 1} of {rounds} · {WHAT[key]}: {run.seconds:.2f} s", file=sys.stderr)
    fresh(place.output, [], cold=False)
    return {
        "model": name,
        "nbytes": sum(path.stat().st_size for path in place.weights(name)),
        "cache": "cold" if cold else "warm",
        "machine": describe(place.root),
        "what": WHAT,
        "runs": runs,
    }


if __name__ == "__main__":
    main()
