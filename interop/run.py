"""Real readers and servers against Sentence Transformers: the merged model, and base + adapter where they can.

Each reader runs in a venv of its own; nothing is downloaded but packages. Exit code 1 when a reader's vectors are not
those of the installed Sentence Transformers, or when it starts although `ingraft doctor` says that it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy  # noqa: E402

from interop.environments import python_of  # noqa: E402
from interop.models import RANK, TEXTS, Model, make_models  # noqa: E402
from interop.page import write_page  # noqa: E402
from interop.table import READERS, Offer, Reader, offers  # noqa: E402

_LIMIT = 900  # seconds for one reader and one model
# ‖theirs − ours‖ / ‖ours‖ of all vectors. Both compute in float32 and add in another order: some hundred roundings of
# 6e-8 on the way to a vector. The effect of the adapter is more than ten thousand times as large.
ALLOWED = 2e-5


@dataclass(frozen=True)
class Answer:
    """What a reader made of an offer: relative differences, or why there are none.

    difference  of the texts that fit, `long` of the one that is cut; `effect` how far the adapter moves the vectors
    predicted   what `ingraft doctor` says of the model
    """

    reader: str
    model: str
    what: str
    seconds: float
    versions: dict[str, str]
    difference: float | None
    long: float | None
    effect: float
    error: str
    predicted: str

    @property
    def as_predicted(self) -> bool:
        return self.predicted == "will not start" if self.error else self.predicted != "will not start"

    @property
    def passed(self) -> bool:
        return self.as_predicted and (self.difference is None or self.difference <= ALLOWED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=ROOT / "build" / "interop", help="models and answers")
    parser.add_argument("--venvs", type=Path, help="environments; default: DIR/venvs")
    parser.add_argument("--only", nargs="+", default=[""], help="readers whose name has one of these words in it")
    parser.add_argument("--no-page", action="store_true", help="leave docs/interop.md as it is")
    chosen = parser.parse_args()
    chosen.dir = chosen.dir.absolute()
    models = make_models(chosen.dir / "models")
    truths = {model.name: (_own(model.merged["keep"]), _own(model.base)) for model in models}
    answers = []
    for reader in READERS:
        if any(word.lower() in reader.name.lower() for word in chosen.only):
            python = python_of(reader.environment, chosen.venvs or chosen.dir / "venvs")
            for model in models:
                for offer in offers(reader, model):
                    answers.append(_ask(reader, python, model, offer, truths[model.name], chosen.dir))
                    _tell(answers[-1])
    (chosen.dir / "answers.json").write_text(json.dumps([asdict(a) for a in answers], indent=2), encoding="utf-8")
    if not chosen.no_page:
        write_page(answers, ROOT / "docs" / "interop.md", ALLOWED)
    raise SystemExit(0 if all(answer.passed for answer in answers) else 1)


def _own(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def _ask(reader: Reader, python: Path, model: Model, offer: Offer, truth: tuple[Any, Any], work: Path) -> Answer:
    job = work / "jobs" / f"{reader.script}-{reader.environment}-{model.base.parent.name}-{offer.what.replace(' ', '')}"
    job.parent.mkdir(parents=True, exist_ok=True)
    vectors, facts = Path(f"{job}.answer.npz"), Path(f"{job}.answer.json")
    for path in (vectors, facts):
        path.unlink(missing_ok=True)
    adapter = str(offer.adapter) if offer.adapter else None
    wanted = {"model": str(offer.model), "texts": TEXTS, "answer": str(vectors), "adapter": adapter, "rank": RANK}
    Path(f"{job}.json").write_text(json.dumps(wanted), encoding="utf-8")
    started = time.monotonic()
    with open(f"{job}.out", "w", encoding="utf-8") as out:
        subprocess.run(
            [python, Path(__file__).parent / "readers" / f"{reader.script}.py", f"{job}.json"],
            stdout=out,
            stderr=out,
            timeout=_LIMIT,
            check=False,
            env={**_environment(), "VLLM_CPU_KVCACHE_SPACE": "1"},
        )
    seconds = time.monotonic() - started
    found: dict[str, Any] = json.loads(facts.read_text()) if facts.is_file() else {"error": f"no answer, see {job}.out"}
    ours, base = truth
    difference = long = None
    if "error" not in found:
        theirs = numpy.load(vectors)["rows"]
        difference, long = _distance(theirs[:-1], ours[:-1]), _distance(theirs[-1:], ours[-1:])
    return Answer(
        reader=reader.name,
        model=model.name,
        what=offer.what,
        seconds=seconds,
        versions=found.get("versions", {}),
        difference=difference,
        long=long,
        effect=_distance(base[:-1], ours[:-1]),
        error=found.get("error", "").replace(f"{work / 'models'}{os.sep}", ""),
        predicted=_predicted(reader, offer),
    )


def _environment() -> dict[str, str]:
    """Offline, and without this environment's own path."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def _predicted(reader: Reader, offer: Offer) -> str:
    """The verdict of `ingraft doctor`, on the merged model; on the adapter where a server takes it as such."""
    from ingraft.serving import examine

    if reader.server is None:
        return ""
    takes_adapter = offer.adapter is not None and reader.server == "vllm"
    path = offer.adapter if takes_adapter and offer.adapter else offer.model
    return examine(path, [reader.server]).servers[0].verdict


def _distance(theirs: Any, ours: Any) -> float:
    if theirs.shape != ours.shape:
        return float("inf")
    return float(numpy.linalg.norm(theirs.astype("float64") - ours) / numpy.linalg.norm(ours))


def _tell(answer: Answer) -> None:
    what = answer.error or f"difference {answer.difference:.1e}, long text {answer.long:.1e}"
    mark = "ok" if answer.passed else "FAILED"
    print(f"{mark:6} {answer.reader} · {answer.model} · {answer.what} · {what} · {answer.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
