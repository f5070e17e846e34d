"""How the demo is printed: the commands it stands for, what comes of each, and the three models side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.text import Text

from ingraft.cli import show, show_merge, show_training, show_verification
from ingraft.demo.data import DemoData
from ingraft.demo.steps import Command, DemoResult
from ingraft.pipeline import MergeResult
from ingraft.training.facts import Evaluated, TrainingResult
from ingraft.verification.report import VerificationReport

_MODELS = {"base": "base model", "adapted": "base + adapter, live in PEFT", "merged": "merged, without PEFT"}


@contextmanager
def observer(*, human: bool) -> Iterator[Callable[[Any], None]]:
    """What to hand the demo as its observer; says nothing unless `human`."""
    with show_training.observer(human=human) as observe_training:

        def observe(event: Any) -> None:
            if not isinstance(event, Evaluated):  # all three come in one table at the end
                observe_training(event)
            if human:
                _fact(event)

        yield observe


def _fact(event: Any) -> None:
    match event:
        case DemoData():
            show.line("task", "find the title of a diagnosis in ICD-10-CM by another name for it")
            show.line("", f"{len(event.pairs):,} names with their titles to learn from")
            show.line(
                "", f"{len(event.queries):,} names of other categories, to be found among {len(event.corpus):,} titles"
            )
        case Command():
            show.out().print()
            show.out().print(Text.assemble(("$ ", "dim"), (event.text, "bold")))
        case TrainingResult():
            show_training.outcome(event)
        case MergeResult():
            show_merge.plan(event.plan, event.output)
            show_merge.result(event)
        case VerificationReport():
            show_verification.checks(event)
            show_verification.verdict(event)
        case _:
            pass


def result(result: DemoResult) -> None:
    """The table of the three models, and the lines of Python that load the merged one."""
    table = show.table("")
    for name in next(iter(result.metrics.values())):
        table.add_column(name, justify="right")
    table.add_column("largest difference", justify="right")
    for model, metrics in result.metrics.items():
        difference = {"adapted": "reference", "merged": f"{result.parity:.1e}"}.get(model, "")
        table.add_row(_MODELS[model], *(f"{value:.4f}" for value in metrics.values()), difference)
    show.out().print()
    show.print_table(table)
    show.out().print()
    show.line("done", f"in {result.seconds:.0f} s; the merged model is a plain one:")
    show.line("", "from sentence_transformers import SentenceTransformer", style="bold green")
    show.line("", f'model = SentenceTransformer("{result.merge.output}")', style="bold green")
