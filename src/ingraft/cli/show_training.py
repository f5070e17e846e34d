"""How a training run is printed: each fact as soon as it is known, and a bar while there is none."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ingraft.cli import show, show_merge
from ingraft.files import human_bytes
from ingraft.hub import expanded
from ingraft.naming.numbers import layer_span
from ingraft.training.facts import (
    AdapterFacts,
    Chosen,
    DataFacts,
    Evaluated,
    Evaluating,
    Mined,
    Mining,
    ModelFacts,
    Observer,
    Quantised,
    Restored,
    Resumed,
    Step,
    TrainingResult,
)
from ingraft.training.memory import MemoryPlan

if TYPE_CHECKING:
    from ingraft.pipeline import MergeResult
    from ingraft.training.starter import Starter

_PHASES = {
    "base": "measuring the base model",
    "adapted": "measuring base + adapter",
    "base, in general": "measuring the base model in general",
    "adapted, in general": "measuring base + adapter in general",
    "merged": "measuring the merged",
}


@contextmanager
def observer(*, human: bool) -> Iterator[Observer]:
    """What to hand a training run as its observer: facts go to stdout, a bar to stderr if that is a terminal.

    Says nothing at all unless `human`.
    """
    if not human:
        yield lambda event: None
        return
    # Where stdout is the same terminal, rich prints the facts above the bar.
    bars = Progress(
        TextColumn("[bold cyan]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        # Else what is printed would go to stderr with the bar, although stdout is a file.
        redirect_stdout=sys.stdout.isatty(),
    )

    def observe(event: Any) -> None:
        match event:
            case Step():
                _advance(bars, event)
            case Mining():
                _only(bars, "mining hard negatives")
            case Evaluating(model=model):
                _only(bars, _PHASES.get(model, model))
            case _:
                _only(bars, None)
                fact(event)

    with bars:
        yield observe


def _only(bars: Progress, description: str | None) -> None:
    """Leave one bar, without an end in sight, or none."""
    for task in bars.task_ids:
        bars.remove_task(task)
    if description:
        bars.add_task(description, total=None, state="")


def _advance(bars: Progress, step: Step) -> None:
    if step.done == 0:
        _only(bars, None)
        bars.add_task("train", total=step.total, state="")
    loss = f" · loss {step.loss:.3f}" if step.loss is not None else ""
    for task in bars.task_ids:
        bars.update(task, completed=step.done, state=f"{step.done}/{show.plural(step.total, 'step')}{loss}")


def fact(event: Any) -> None:
    """One line, or a few, for what a run has found out; nothing for what is no fact."""
    match event:
        case DataFacts():
            _data(event)
        case ModelFacts():
            show.line(
                "base",
                f"{_short(event.name)} · {event.architecture} · {show.count(event.parameters)} parameters · "
                f"{event.dtype} · {human_bytes(event.nbytes)}",
            )
        case Chosen():
            show.line("", f"chosen: {' · '.join(event.words)}", style="dim")
        case Mined():
            show.line("mined", f"{event.note} · {event.rows:,} rows · {event.seconds:.1f} s")
        case AdapterFacts():
            _adapter(event)
        case Quantised():
            show.line(
                "quantize",
                f"{event.layers} layers in 4-bit {event.kind} with double quantisation, computed in {event.compute} · "
                f"a merge takes the {event.merged_into} weights and is proven against them",
            )
        case MemoryPlan():
            _memory(event)
        case Resumed():
            show.line("resume", f"{event.checkpoint}")
        case Restored():
            show.line("best", f"step {event.step} · {event.metric} {event.value:.4f}, the same when measured again")
        case Evaluated(model="base"):
            measured = " · ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
            show.line("before", f"{measured} · measured in {event.seconds:.1f} s")
        case _:
            pass


def _data(data: DataFacts) -> None:
    as_read = ", ".join(name if name == role else f"{name} → {role}" for name, role in data.roles.items())
    held = f", {data.held_out_rows:,} held out" if data.held_out_rows else ""
    held = f", measured on {data.measured_on}" if data.measured_on else held
    held = f", {data.validation_rows:,} to choose by{held}" if data.validation_rows else held
    show.line("data", f"{data.path.name} · {data.training_rows:,} {data.kind} to train on{held} · {as_read}")
    if data.by_position:
        names = ", ".join(map(repr, data.by_position))
        show.line("", f"{names} taken by position: the name says nothing", style="yellow")
    if data.ignored:
        show.line("", f"not used: {', '.join(data.ignored)}", style="dim")
    if not data.apart:
        show.line("", "texts of held-out rows occur in training too: the rows hang together", style="yellow")
    if data.near_duplicates:
        first, *others = data.near_duplicates
        more = f"; {len(others):,} more" if others else ""
        show.line("", f"near-duplicates: {first}{more}", style="yellow")
    for note in data.notes:
        show.line("", note, style="dim")
    sizes = f" · at {', '.join(map(str, data.matryoshka))} dimensions too (Matryoshka)" if data.matryoshka else ""
    show.line("loss", data.loss + sizes)


def _adapter(adapter: AdapterFacts) -> None:
    span = layer_span(set(adapter.modules))
    show.line(
        "adapter",
        f"{' '.join([adapter.method, *map(_setting, adapter.settings.items())])} · "
        f"{', '.join(adapter.target_modules)}{f' in {span}' if span else ''} · "
        f"trains {adapter.trainable:,} of {adapter.parameters:,} parameters, "
        f"{100 * adapter.trainable / adapter.parameters:.2g} %",
    )
    if adapter.heads:
        show.line("", f"trained whole and saved with it: {', '.join(adapter.heads)}", style="dim")
    if adapter.also_trained:
        show.line("", f"trained as well: module {', '.join(adapter.also_trained)}", style="dim")
    for role, prompt in adapter.prompts.items():
        show.line("", f"{role}s begin with the model's prompt {prompt!r}", style="dim")


def _memory(plan: MemoryPlan) -> None:
    rows = f"{plan.mini_batch_size} rows at a time, cached" if plan.mini_batch_size else f"{plan.rows} rows at once"
    ways = [rows, *["bfloat16"][: plan.bf16], *["activations computed twice"][: plan.gradient_checkpointing]]
    found = f"{human_bytes(plan.free)} free ({plan.device})" if plan.free is not None else plan.device
    show.line("memory", f"{', '.join(ways)}: about {human_bytes(plan.needed)} of {found} · {plan.reason}")


def _setting(setting: tuple[str, float | str]) -> str:
    name, value = setting
    shown = f"{value:.4g}" if isinstance(value, float) else value
    return f"scale {shown}" if name == "scale" else f"{name}={shown}"


def result(result: TrainingResult, merged: MergeResult | None = None) -> None:
    """What came of it, and the merge, or the command for it."""
    outcome(result)
    if merged is not None:
        show_merge.result(merged)
        return
    show.line("next", shlex.join(["ingraft", "merge", str(result.output), "OUTPUT"]), style="bold green")


def starter(found: Starter, path: Path) -> None:
    """What a starter config was made from, and the next command."""
    as_read = ", ".join(name if name == role else f"{name} → {role}" for name, role in found.data.roles.items())
    show.line("data", f"{found.data.path.name} · {len(found.data):,} {found.data.kind} · {as_read}")
    for note in found.data.notes:
        show.line("", note, style="yellow")
    show.line("task", found.task)
    show.line("config", f"{path}")
    show.line("next", shlex.join(["ingraft", "train", str(path)]), style="bold green")


def outcome(result: TrainingResult) -> None:
    """What came of it: loss, metrics, sizes and time."""
    course = _course(result.losses)
    show.line("train", f"{show.plural(result.steps, 'step')}{course} · {result.seconds['train']:.1f} s")
    if result.after:
        show.line("after", _changes(result.before, result.after))
    if result.general_after:
        show.line("general", f"{_changes(result.general_before, result.general_after)} · what it should not forget")
    size = 100 * result.adapter_bytes / max(result.model.nbytes, 1)
    total = sum(result.seconds.values())
    show.line(
        "saved",
        f"{result.output}/ · {human_bytes(result.adapter_bytes)}, {size:.2g} % of the base · {total:.0f} s in all",
    )
    if result.logs:
        show.line("logs", shlex.join(["tensorboard", "--logdir", str(result.logs)]))


def _course(losses: Sequence[float]) -> str:
    """The mean loss of the first and the last quarter: single steps jump, a small last batch looks too good."""
    quarter = len(losses) // 4
    if not quarter:
        return ""
    return f" · loss {fmean(losses[:quarter]):.3f} → {fmean(losses[-quarter:]):.3f}"


def _short(name: str) -> str:
    """The last part of a path; a Hub id as it is."""
    path = expanded(name)
    return path.resolve().name if path.is_dir() else name


def _changes(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    return " · ".join(
        f"{name} {before[name]:.4f} → {after[name]:.4f} ({after[name] - before[name]:+.4f})" for name in after
    )
