"""How plans, results and inspections are printed. Data go to stdout, words about progress to stderr."""

from __future__ import annotations

import json as json_library
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingraft.errors import UnusableInput
from ingraft.files import free_bytes, human_bytes, to_json
from ingraft.naming.numbers import layer_span

if TYPE_CHECKING:
    from ingraft.pipeline import MergeResult, Progress
    from ingraft.steps import MergePlan
    from ingraft.verification.report import VerificationReport

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_LABEL = 10


def out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def line(label: str, text: str, *, style: str = "") -> None:
    """One line of the report: a label in its column, then the facts."""
    out().print(Text.assemble((f"{label:<{_LABEL}}", "bold cyan"), (text, style)))


def json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    """One JSON value on stdout, in ASCII where stdout takes no more."""
    plain = json_library.dumps(value, default=str, indent=2)
    text = to_json(json_library.loads(plain))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = plain + "\n"
    sys.stdout.write(text)


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    try:
        path.write_text(to_json(value), encoding="utf-8")
    except OSError as error:
        raise UnusableInput(f"{path} cannot be written: {error.strerror}.") from None


def dtype_name(stored: str) -> str:
    return _DTYPES.get(stored, stored)


def count(number: float) -> str:
    """`22.7 M`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def plan(plan: MergePlan, output: Path) -> None:
    """The plan in four lines: base, adapter, what changes, what it takes."""
    details = plan.base.details
    line(
        "base",
        f"{_short(plan.base.name)} · {details['architecture']} · {count(details['parameters'])} parameters · "
        f"{dtype_name(details['dtype'])} · {human_bytes(plan.base.nbytes)} in {plural(len(plan.base.weights), 'file')}",
    )
    line("adapter", _adapter_line(plan))
    edited, replaced, added = plan.count("edit"), plan.count("replace"), plan.count("add")
    parts = [f"{plural(edited, 'tensor')} edited"] if edited else []
    parts += [f"{replaced} replaced"] if replaced else []
    parts += [f"{added} added"] if added else []
    parts += [f"{plan.count('copy')} copied byte for byte"] if plan.count("copy") else []
    parts += [f"{plan.count('cast')} cast"] if plan.count("cast") else []
    parts += [f"{plural(len(plan.carried), 'file')} carried"]
    room = f"{human_bytes(plan.needed_disk)} to write, {human_bytes(free_bytes(output.absolute().parent))} free"
    line("plan", f"{', '.join(parts)} · {room}")
    for written in plan.written:
        if not written.portable:
            line("", f"{written.path} written: {written.reason}", style="dim")
    portable = [written.path for written in plan.written if written.portable]
    if portable:
        line(
            "",
            f"{plural(len(portable), 'file')} in words that older readers know too: {', '.join(portable)}",
            style="dim",
        )
    for note in plan.notes:
        line("", note, style="dim")


def _adapter_line(plan: MergePlan) -> str:
    details = plan.adapter.details
    found = {edit.settings.get("scale") for edit in plan.edits()}
    scales = sorted({float(scale) for scale in found if isinstance(scale, (int, float))})
    facts = [plan.method]
    if "r" in details:
        facts.append(f"r={details['r']}")
    if "lora_alpha" in details:
        facts.append(f"α={details['lora_alpha']}")
    if scales:
        facts.append("scale " + (f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}"))
    modules = {edit.target for edit in plan.edits()}
    leaves = sorted({module.rsplit(".", 1)[-1] for module in modules})
    share = 100 * plan.adapter.nbytes / max(plan.base.nbytes, 1)
    where = ", ".join(leaves[:8]) + (" …" if len(leaves) > 8 else "")
    span = layer_span(modules)
    route = "" if plan.route == "streamed" else f" · {plan.route}, {human_bytes(plan.needed_memory)} of memory"
    return (
        f"{' '.join(facts)} · {where}{f' in {span}' if span else ''} · "
        f"{human_bytes(plan.adapter.nbytes)}, {share:.2g} % of the base{route}"
    )


def _short(name: str) -> str:
    path = Path(name)
    return path.name if path.is_absolute() and path.name else name


@contextmanager
def progress(human: bool) -> Iterator[Progress | None]:
    """A bar on stderr for each stage; None, so silence, when stderr is no terminal."""
    if not human or not sys.stderr.isatty():
        yield None
        return
    from ingraft.cli.progress import Bars

    with Bars() as bars:
        yield bars


def result(result: MergeResult) -> None:
    """Time, proof, and the line that loads the model."""
    size = sum(step.nbytes for step in result.plan.steps())
    shared = f" · {human_bytes(result.cloned)} shared with the base, not copied" if result.cloned else ""
    line("merge", f"{human_bytes(size)} in {result.seconds:.1f} s{shared}")
    if result.report is None:
        line("proof", "switched off with --no-verify", style="yellow")
    else:
        proof(result.report)
    if result.signature is not None:
        line("signed", f"every file, in {result.signature.name}")
    loader = result.plan.layout.model_class or f"{result.plan.base.details['architecture']}.from_pretrained"
    line("model", f'{loader}("{result.output}")', style="bold green")


def merge_facts(result: MergeResult) -> dict[str, Any]:
    """The result in JSON types: what the person sees, and the whole plan."""
    return {
        "output": str(result.output),
        "seconds": round(result.seconds, 3),
        "bytes_cloned": result.cloned,
        "plan": result.plan.to_dict(),
        "verification": result.report.to_dict() if result.report else None,
        "signature": str(result.signature) if result.signature else None,
    }


def proof(report: VerificationReport) -> None:
    """The checks of a weight proof on two lines."""
    used, untouched, probes = (report.check(name) for name in ("adapter tensors", "untouched tensors", "probes"))
    line(
        "proof",
        f"{used.value} of {used.limit} adapter tensors used · {untouched.value} of {untouched.limit} untouched tensors "
        f"identical · probes of all edited tensors, worst {probes.value:.2g} of the limit",
    )
    kept, changed, edited = (
        report.figures.get(key) for key in ("kept_of_delta", "elements_changed", "elements_edited")
    )
    if kept is not None and changed is not None and edited:
        line(
            "",
            f"rounding keeps {100 * kept:.1f} % of the delta · {100 * changed / edited:.1f} % of its elements changed",
        )


def checks(report: VerificationReport) -> None:
    """Every check as a row: measured, allowed, meaning."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "check", "measured", "allowed", "meaning"):
        table.add_column(title, overflow="fold")
    for check in report.checks:
        mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(mark, check.name, _number(check.value), _number(check.limit), check.meaning)
    Console(highlight=False).print(table)


def task(report: VerificationReport) -> None:
    """How base, adapted and merged model do in the user's task, with intervals of the differences."""
    measured = report.figures.get("task")
    if not measured:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("task")
    for title in ("base", "adapted", "merged", "adapted − base", "merged − adapted"):
        table.add_column(title, justify="right")
    for row in measured["metrics"]:
        values = [f"{row[name]:.4f}" for name in ("base", "adapted", "merged")]
        table.add_row(
            row["metric"], *values, *(_interval(row[name]) for name in ("adapted_minus_base", "merged_minus_adapted"))
        )
    unit = "pairs" if measured["kind"] == "pairs" else f"queries, {measured['documents']:,} documents"
    line("task", f"{measured['items']:,} {unit} · brackets: 95 % of {measured['resamples']:,} resamples")
    Console(highlight=False).print(table)


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def verdict(report: VerificationReport, word: str = "proven") -> None:
    """The last lines of a verification: `word`, or what failed and where, a line each, so that logs can be searched."""
    if report.passed:
        line(word, f"{plural(len(report.checks), 'check')} passed", style="bold green")
        return
    for check in report.failed:
        line("FAILED", f"{check.name}: {check.where}" if check.where else check.name, style="bold red")
    line("", f"{len(report.failed)} of {plural(len(report.checks), 'check')} failed")
