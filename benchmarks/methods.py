"""Time and memory of a merge by PEFT method, against a LoRA of rank 16 on the same layers."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.models import METHODS, SHAPES
from benchmarks.ranks import measure
from benchmarks.results import print_adapters, save
from benchmarks.workplace import Workplace, options

RANK = 16


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--model", choices=SHAPES, default="Qwen3-0.6B", help="the base to merge into")
    chosen = parser.parse_args()
    place = Workplace(chosen.dir)
    kinds: list[str | int] = [RANK, *METHODS]
    for kind in kinds:
        place.build(chosen.model, kind, SHAPES[chosen.model].nbytes)
    measured = measure(place, chosen.model, kinds, rounds=chosen.rounds, cold=chosen.cold, tries=chosen.tries)
    lora = measured["adapters"].pop(str(RANK))
    measured["adapters"] = {"LoRA": lora, **measured["adapters"]}
    print_adapters(measured, "method")
    if not chosen.no_save:
        save("methods", f"{chosen.model}, {measured['cache']}", measured)


if __name__ == "__main__":
    main()
