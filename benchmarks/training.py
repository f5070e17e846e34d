"""Adapters and full fine-tuning on the demo's data: quality, time, memory, size; writes training.md.

Every run is a process of its own and is kept at once: with --go-on, what is there already is not measured again.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.contenders import environment
from benchmarks.machine import describe
from benchmarks.measure import Run, files_below, fresh, quiet_run, run
from benchmarks.training_table import BARE, BASE, DORA, FULL, INGRAFT, QUERY_VALUE, RATE, Measured, better_rate, page
from benchmarks.workplace import HERE, RESULTS, options
from ingraft.demo.data import catalogue, diagnosis_data, model_directory

ROOT = HERE.resolve().parent
PAIRS = 1_000
RANK, SCALE, DROPOUT = 8, 4, 0.1
FULL_RATES = (5e-5, 2e-4)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
RANKS = (4, 8, 16)
FEWER, MORE, POOL = 300, 3_000, 10_000
QUERIES, TITLES = 500, 2_000
BATCH = 64
_TARGETS, _NOT_TARGETS = ["query", "key", "value", "dense"], ["pooler.dense"]  # what `auto` takes of this model
KEPT = RESULTS / "training.json"
WEIGHTS = ("adapter_model.safetensors", "model.safetensors")
_SCRIPTS = HERE / "contenders"


@dataclass(frozen=True)
class Trial:
    """One training. `part` is the table that it stands in."""

    part: str
    contender: str
    pairs: int = PAIRS
    seed: int = 0
    rank: int = RANK
    rate: float = RATE


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--minutes", type=float, help="begin no run after so many")
    parser.add_argument("--part", choices=("methods", "rates"), help="only this one")
    parser.add_argument("--go-on", action="store_true", help="keep what was measured, and measure what is missing")
    chosen = parser.parse_args()
    place = Place(chosen.dir / "training")
    place.build(chosen.rounds)
    runs = kept() if chosen.go_on else []
    end = time.monotonic() + 60 * (chosen.minutes or 1e9)
    while time.monotonic() < end:
        trial = next((trial for trial in trials(chosen.rounds, runs) if chosen.part in (None, trial.part)), None)
        if trial is None:
            break
        runs.append(measured(trial, place, tries=chosen.tries))
        print(f"{trial} · {runs[-1]['seconds']:.1f} s", file=sys.stderr)
        if not chosen.no_save:
            runs = [*kept(), runs[-1]] if chosen.go_on else runs  # parts may be measured side by side
            facts = {"machine": describe(place.root), "runs": runs}
            KEPT.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    text = page(runs, describe(place.root))
    print(text)
    if not chosen.no_save:
        (HERE / "training.md").write_text(text, encoding="utf-8")


def kept() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8"))["runs"] if KEPT.exists() else []
    return runs


def trials(rounds: int, done: Sequence[Measured]) -> Iterator[Trial]:
    """What is still to be measured, in turn; each round begins with another contender."""
    known = {_key(trial) for trial in done}
    known |= {("rates", *rest) for part, *rest in known if part == "methods"}  # the same training

    def open_ones() -> Iterator[Trial]:
        yield Trial("methods", BASE, rank=0, rate=0)
        for seed in range(rounds):
            turn = [Trial("methods", name, seed=seed) for name in (INGRAFT, BARE, QUERY_VALUE, DORA)]
            # The better of the rates that the first round tried.
            rates = FULL_RATES if seed == 0 else [better_rate(done)]
            turn += [Trial("methods", FULL, seed=seed, rank=0, rate=rate) for rate in rates if rate]
            yield from turn[seed:] + turn[:seed]
        yield from (Trial("rates", INGRAFT, rank=rank, rate=rate) for rank in RANKS for rate in RATES)
        yield from (Trial("rates", INGRAFT, pairs=pairs, rate=rate) for pairs in (FEWER, MORE) for rate in RATES)

    return (trial for trial in open_ones() if _key(asdict(trial)) not in known)


def _key(trial: Measured) -> tuple[Any, ...]:
    return tuple(trial[name] for name in ("part", "contender", "pairs", "seed", "rank", "rate"))


@dataclass(frozen=True)
class Place:
    """Model, pairs and queries of the benchmark, in one folder."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def task(self) -> Path:
        return self.root / "task.json"

    def pairs(self, count: int, seed: int) -> Path:
        return self.root / f"pairs-{count}-{seed}.jsonl"

    def build(self, rounds: int) -> None:
        """Every seed draws pairs of its own; the queries are the same for all, of categories that no pair is from."""
        diagnoses = catalogue()
        data = diagnosis_data(diagnoses, pairs=POOL, seed=0, held_out=QUERIES, titles=TITLES)
        shutil.copytree(model_directory(), self.base, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        for count in (FEWER, PAIRS, MORE):
            for seed in range(rounds):
                drawn = random.Random(seed).sample(data.pairs, count)
                lines = (json.dumps({"anchor": term, "positive": title}) for term, title in drawn)
                self.pairs(count, seed).write_text("\n".join(lines) + "\n", encoding="utf-8")
        relevant = {query: sorted(titles) for query, titles in data.relevant.items()}
        task = {"queries": data.queries, "corpus": data.corpus, "relevant": relevant}
        self.task.write_text(json.dumps(task), encoding="utf-8")


def measured(trial: Trial, place: Place, *, tries: int) -> dict[str, Any]:
    """The training, and what its result measures on the queries, in JSON types. One thread for each process."""
    alone = {**environment(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    output = place.root / "output"
    facts: dict[str, Any] = asdict(trial)
    if trial.contender == BASE:
        output = place.base
    else:
        command = _command(trial, place, output)
        took = quiet_run(
            lambda: fresh(output, files_below(place.base), cold=False), command, environment=alone, tries=tries
        )
        facts |= _facts(trial, took, output)
    answer = run([sys.executable, str(_SCRIPTS / "measure_model.py"), str(output), str(place.task)], environment=alone)
    return {"seconds": 0.0, **facts, **json.loads(answer.output)}


def _command(trial: Trial, place: Place, output: Path) -> list[str]:
    alpha = SCALE * trial.rank
    given: Mapping[str, Any] = {
        "model": str(place.base),
        "data": str(place.pairs(trial.pairs, trial.seed)),
        "output": str(output),
        "seed": trial.seed,
        "batch_size": BATCH,
        "learning_rate": trial.rate,
        "epochs": 1,
    }
    if trial.contender in (BARE, FULL):
        adapter = {"rank": trial.rank, "alpha": alpha, "dropout": DROPOUT}
        layers = {"target_modules": _TARGETS, "exclude_modules": _NOT_TARGETS}
        return [sys.executable, str(_SCRIPTS / "train_bare.py"), json.dumps({**given, **adapter, **layers})]
    # Nothing is measured on the way: the queries are for all alike, and the bare script has no such thing.
    flags = {
        **{name.replace("_", "-"): value for name, value in given.items()},
        "lora.r": trial.rank,
        "lora.alpha": alpha,
        "lora.dropout": DROPOUT,
        "holdout": 0,
        "general": "none",
        "format": "json",
        "method": "dora" if trial.contender == DORA else "lora",
        "target-modules": "query,value" if trial.contender == QUERY_VALUE else "auto",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "ingraft", "train", *words]


def _facts(trial: Trial, took: Run, output: Path) -> dict[str, Any]:
    """A run in JSON types; `train` is the trainer's part of its seconds."""
    bare = trial.contender in (BARE, FULL)  # its last line; the trainer prints the others
    said = json.loads(took.output.splitlines()[-1] if bare else took.output)
    adapter = said if bare else said["adapter"]
    [weights] = [path for path in files_below(output) if path.name in WEIGHTS]
    return {
        "seconds": took.seconds,
        "cpu": took.cpu,
        "peak": took.peak,
        "others": took.others,
        "train": said["train"] if bare else said["seconds"]["train"],
        "loss": (said if bare else said["course"])["losses"][-1],
        "trainable": adapter["trainable"],
        "parameters": adapter["parameters"],
        "nbytes": weights.stat().st_size,
    }


if __name__ == "__main__":
    main()
