"""`ingraft verify`: the proof again, from disk and through PEFT itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingraft.cli.merge import Format

if TYPE_CHECKING:
    from ingraft.steps import MergePlan


def verify(
    merged: Annotated[str, typer.Argument(help="The merged model's directory.", show_default=False)],
    adapter: Annotated[
        str, typer.Option(help="The adapter that was merged: a directory or a Hub id.", show_default=False)
    ],
    base: Annotated[str | None, typer.Option(help="Base model. Default: what the adapter names.")] = None,
    base_precision: Annotated[
        Literal["original", "dequantized"] | None,
        typer.Option(
            help="Which weights of a quantised base the adapter was merged into: as given to `ingraft merge`.",
            show_default=False,
        ),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Texts to embed with both models, one a line. Default: a set of ours.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code from the base model's repository to run.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the proof to this file as an HTML page.", show_default=False)
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the checks.")] = "human",
) -> None:
    """Prove that MERGED equals its base plus the adapter. Exit code 1 when a check fails."""
    from ingraft.cli import show
    from ingraft.pipeline import verify as run
    from ingraft.verification.texts import read_texts

    if report is not None:
        from ingraft.report import check_report

        check_report(report)
    plans: list[MergePlan] = []
    chosen = read_texts(texts) if texts else None
    with show.progress(format == "human") as progress:
        found = run(
            merged,
            adapter,
            base=base,
            base_precision=base_precision,
            texts=chosen,
            trust_remote_code=trust_remote_code,
            progress=progress,
            on_plan=plans.append,
        )
    if report is not None:
        from ingraft.hub import local_directory
        from ingraft.report import write_report

        write_report(report, found, plans[-1], merged=local_directory(merged, role="merged model"))
    if format == "json":
        show.json(found.to_dict())
    else:
        show.checks(found)
        show.verdict(found)
        if report is not None:
            show.line("report", str(report))
    if not found.passed:
        raise typer.Exit(1)
