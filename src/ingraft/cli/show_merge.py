"""How a plan and the result of a merge are printed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.checkpoint import dtype_name
from ingraft.cli.show import count, line, plural
from ingraft.files import human_bytes
from ingraft.machine import free_bytes
from ingraft.naming.numbers import layer_span

if TYPE_CHECKING:
    from ingraft.pipeline import MergeResult
    from ingraft.steps import MergePlan
    from ingraft.verification.report import VerificationReport


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


def facts(result: MergeResult) -> dict[str, Any]:
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
