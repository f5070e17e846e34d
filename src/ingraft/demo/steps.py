"""The whole way in one pipeline: data → train → merge → verify → measure base, adapted and merged model."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.demo.config import DemoConfig
from ingraft.demo.data import DemoData, catalogue, diagnosis_data, model_directory
from ingraft.errors import CheckFailed, UnusableInput
from ingraft.publish import check_output, check_place
from ingraft.training.config import TrainingConfig, command_line
from ingraft.training.evaluation import Metrics, evaluate
from ingraft.training.facts import Evaluated, Evaluating, TrainingResult
from ingraft.training.quiet import import_libraries, quiet_libraries, share_cores
from ingraft.training.run import train
from ingraft.training.tasks import RetrievalTask

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ingraft.pipeline import MergeResult
    from ingraft.verification.report import VerificationReport

MODEL = "all-MiniLM-L6-v2"
# What measured best on this model and these data, among what a laptop trains in a minute or two.
LEARNING_RATE = 2e-3
BATCH_SIZE = 64
EPOCHS = 2


@dataclass(frozen=True)
class Command:
    """What a person would type for the step that comes now."""

    text: str


@dataclass(frozen=True)
class DemoResult:
    """`metrics` are those of `base`, `adapted` (base + adapter, live through PEFT) and `merged`.

    parity  the largest difference between the elements of an adapted and a merged embedding, over all queries
    """

    training: TrainingResult
    merge: MergeResult
    report: VerificationReport
    metrics: Mapping[str, Metrics]
    parity: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "training": self.training.to_dict(),
            "merged": str(self.merge.output),
            "verification": self.report.to_dict(),
            "metrics": {model: dict(metrics) for model, metrics in self.metrics.items()},
            "parity": self.parity,
            "seconds": round(self.seconds, 1),
        }


def run_demo(config: DemoConfig, *, observe: Callable[[Any], None] = lambda event: None) -> DemoResult:
    """Train, merge, prove and measure below `config.output`; CheckFailed when the merged model is not proven.

    `observe` is told the Command of each step and what comes of it: DemoData, all that a training run tells,
    TrainingResult, MergeResult, VerificationReport, and each Evaluated.
    """
    started = time.monotonic()
    if config.overwrite:
        check_place(config.output)  # of what is there, the demo's own parts alone are replaced
    else:
        check_output(config.output, overwrite=False)
    if config.pairs < 2:
        raise UnusableInput(f"--pairs is {config.pairs}; expected 2 or more.", hint="Leave it out for 1,500.")
    share_cores()
    import_libraries()  # what is missing is said before anything is written
    from ingraft.adapted import load_adapted
    from ingraft.pipeline import merge
    from ingraft.proof import verify

    data = diagnosis_data(catalogue(), pairs=config.pairs, seed=config.seed)
    observe(data)
    base, pairs = prepare(config.output, data)
    adapter, merged = config.output / "adapter", config.output / "merged"

    training = training_config(config, base, pairs, adapter)
    observe(Command(command_line(training)))
    trained = train(training, observe=observe)
    observe(trained)

    observe(Command(shlex.join(["ingraft", "merge", str(adapter), str(merged)])))
    merged_model = merge(adapter, merged, overwrite=config.overwrite)
    observe(merged_model)

    observe(Command(shlex.join(["ingraft", "verify", str(merged), "--adapter", str(adapter)])))
    report = verify(merged, adapter)
    observe(report)
    if not report.passed:
        raise CheckFailed(f"The proof failed: {', '.join(check.name for check in report.failed)}.")

    task = RetrievalTask(data.queries, data.corpus, data.relevant)
    with quiet_libraries():
        models: dict[str, Any] = {"base": _load(base), "adapted": load_adapted(adapter), "merged": _load(merged)}
        metrics = {name: _measure(name, model, task, observe) for name, model in models.items()}
        parity = largest_difference(models["adapted"], models["merged"], list(data.queries.values()))
    return DemoResult(trained, merged_model, report, metrics, parity, time.monotonic() - started)


def prepare(output: Path, data: DemoData) -> tuple[Path, Path]:
    """A copy of the base model and the training pairs as JSONL, below `output`.

    The copy is for the reader: the adapter then names a model that lies beside it, not one inside a package.
    """
    base, pairs = output / MODEL, output / "pairs.jsonl"
    if base.exists():
        shutil.rmtree(base)
    shutil.copytree(model_directory(), base, ignore=shutil.ignore_patterns("__pycache__"))
    lines = (json.dumps({"anchor": term, "positive": title}, ensure_ascii=False) for term, title in data.pairs)
    pairs.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return base, pairs


def training_config(config: DemoConfig, base: Path, pairs: Path, adapter: Path) -> TrainingConfig:
    """What `ingraft train` would be told; no pairs are held out, because the demo has queries of its own."""
    return TrainingConfig(
        model=str(base),
        data=str(pairs),
        output=adapter,
        epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        batch_size=BATCH_SIZE,
        holdout=0,
        seed=config.seed,
        overwrite=config.overwrite,
    )


def largest_difference(first: SentenceTransformer, second: SentenceTransformer, texts: list[str]) -> float:
    """max |a - b| over the elements of both models' embeddings of `texts`."""
    a, b = (model.encode(texts, convert_to_tensor=True, show_progress_bar=False) for model in (first, second))
    return float((a - b).abs().max())


def _measure(name: str, model: SentenceTransformer, task: RetrievalTask, observe: Callable[[Any], None]) -> Metrics:
    observe(Evaluating(name))
    started = time.monotonic()
    metrics = evaluate(model, task)
    observe(Evaluated(name, metrics, time.monotonic() - started))
    return metrics


def _load(model: Path) -> SentenceTransformer:
    """On the CPU, where the adapted model is as well: another device computes other last digits."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu", local_files_only=True)
