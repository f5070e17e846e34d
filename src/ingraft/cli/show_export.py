"""How an export is printed: the graph, its proof, and its forms side by side."""

from __future__ import annotations

from ingraft.cli import show
from ingraft.exporters.result import ExportResult, StaticResult
from ingraft.files import human_bytes


def result(result: ExportResult) -> None:
    """What was written, what proved it, and size and speed beside torch's."""
    show.line(
        "model",
        f"{result.model} · {result.model_class} · {result.architecture} · {show.count(result.parameters)} parameters",
    )
    opset = f" · opset {result.opset}" if result.opset else ""
    inputs = ", ".join(result.inputs)
    show.line("graph", f"{result.graph} · {result.format}{opset} · {inputs} [batch, length] → {result.output_name}")
    for number, check in enumerate(check for check in result.report.checks if check.name.endswith("answers")):
        show.line(
            "" if number else "proof",
            f"{check.name} to {result.texts} texts, alone, in batches and cut off · worst {check.value:.2g} of an "
            f"answer's norm, {check.limit:.2g} allowed",
        )
    for name, (before, after) in result.metrics.items():
        show.line("", f"{name} {before:.4f} in float32, {after:.4f} in int8")
    table = show.table("")
    for title in ("size", "texts/s", "largest difference"):
        table.add_column(title, justify="right")
    for variant in result.variants:
        table.add_row(
            f"{'':<10}{variant.name}",
            human_bytes(variant.nbytes),
            variant.speed_text,
            variant.difference_text,
        )
    show.print_table(table)
    show.line("written", f"{result.output}/ in {result.seconds:.1f} s", style="bold green")


def static(result: StaticResult) -> None:
    """What it was distilled from, that it is another model, and what that costs and gains."""
    show.line("teacher", f"{result.teacher} · {result.architecture} · {show.count(result.parameters)} parameters")
    show.line(
        "static",
        f"{result.tokens:,} tokens · {result.dimensions} dimensions · float32 · from {result.pooling} pooling"
        f"{' · normalised' if result.normalised else ''}",
    )
    show.line("", f"another model than {result.teacher}: one vector a token, and no answer of it is the teacher's")
    show.line("measured", f"similarities of {result.texts} texts: Spearman {result.agreement:.4f} with the teacher's")
    if result.metrics:
        for name, (before, after) in result.metrics.items():
            show.line("", f"{name} {before:.4f} of the teacher, {after:.4f} static ({after - before:+.4f})")
    else:
        show.line("", "on no task: --data FILE measures both models on your own pairs")
    table = show.table("")
    for title in ("size", "texts/s"):
        table.add_column(title, justify="right")
    for variant in result.variants:
        table.add_row(f"{'':<10}{variant.name}", human_bytes(variant.nbytes), variant.speed_text)
    show.print_table(table)
    show.line("written", f"{result.output}/ in {result.seconds:.1f} s", style="bold green")
