"""What an export with other answers may lose, measured with the user's own data: the gate of `--max-drop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput
from ingraft.training.data import TrainingData, read_training_data
from ingraft.training.evaluation import evaluate
from ingraft.training.tasks import Task, held_out_task
from ingraft.verification.report import Check

MAX_DROP = 0.01  # of the first metric, where --max-drop says nothing else


@dataclass(frozen=True)
class Measure:
    """A task from the rows of a file, for models of one class."""

    data: TrainingData
    task: Task
    model_class: str

    def __call__(self, live: Any) -> dict[str, float]:
        """The metrics of `live`, each at most 1, the one that the gate looks at first."""
        with quiet():
            if self.model_class == "CrossEncoder":
                return {"Spearman": _rank_correlation(live, self.data)}
            return evaluate(live, self.task)


def open_measure(data: Path, model_class: str) -> Measure:
    """The task that `data` makes for a model: retrieval from pairs, rank correlation from scored pairs.

    UnusableInput when the file holds neither, or the class cannot be measured so.
    """
    rows = read_training_data(data)
    if model_class == "CrossEncoder" and rows.kind != "scored pairs":
        raise UnusableInput(
            f"{data} has pairs without scores, which say little of a CrossEncoder.",
            hint="Pass a file with the columns sentence1, sentence2 and score.",
        )
    if model_class not in ("SentenceTransformer", "CrossEncoder"):
        raise UnusableInput(
            f"What int8 costs a {model_class} cannot be measured here, so it is not exported in int8.",
            hint="Leave out --quantize.",
        )
    task = held_out_task(rows, range(len(rows)))
    if task is None:
        raise UnusableInput(f"{data} has too few rows to measure anything.", hint="Pass some hundred.")
    return Measure(rows, task, model_class)


def drop_check(
    before: dict[str, float],
    after: dict[str, float],
    *,
    max_drop: float,
    data: Path,
    what: str = "int8",
    forms: tuple[str, str] = ("in float32", "in int8"),
) -> Check:
    """The first metric as a check; a gain is a drop below zero.

    what   whatever loses it; `forms` say where the metric was measured before and after
    """
    name = next(iter(before))
    drop = before[name] - after[name]
    return Check(
        f"{name} on {data.name}",
        drop <= max_drop,
        f"what {what} loses of {name}, on the rows of {data.name}; allowed is --max-drop",
        drop,
        max_drop,
        f"{before[name]:.4f} {forms[0]}, {after[name]:.4f} {forms[1]}",
    )


def _rank_correlation(live: Any, data: TrainingData) -> float:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    pairs = list(zip(data.columns["sentence1"], data.columns["sentence2"], strict=True))
    scores = live.predict(pairs, show_progress_bar=False)
    if scores.ndim > 1 and scores.shape[1] > 1:
        raise UnusableInput("The CrossEncoder has several classes; scored pairs measure one score.")
    return float(spearmanr(scores.reshape(-1), data.columns["score"]).statistic)
