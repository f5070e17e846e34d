"""`ingraft verify`: the proof from disk, through PEFT itself; or the files against their manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingraft.cli.format import Format

if TYPE_CHECKING:
    from ingraft.steps import MergePlan


def verify(
    merged: Annotated[str, typer.Argument(metavar="MERGED", help="The merged model's directory.", show_default=False)],
    adapter: Annotated[
        str | None,
        typer.Option(
            help="The adapter that was merged: a directory or a Hub id. Without it, files are compared with the "
            "sha256 in ingraft.json alone.",
            show_default=False,
        ),
    ] = None,
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
    task: Annotated[
        Path | None,
        typer.Option(
            help="Your own evaluation, for base, adapted and merged model: pairs with scores (CSV, JSONL, Parquet) or "
            "a BEIR directory.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Check the signature of MERGED with the public key in this PEM file.", show_default=False),
    ] = None,
    no_embeddings: Annotated[
        bool, typer.Option("--no-embeddings", help="Run no model: check weights and files alone.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code from the base model's repository to run.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the proof to this file as an HTML page.", show_default=False)
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the checks.")] = "human",
) -> None:
    """Prove that MERGED equals its base plus the adapter. Exit code 1 when a check fails.

    Without --adapter: that MERGED is, file by file, what was published.
    """
    from ingraft.cli import show, show_verification
    from ingraft.proof import verify as run
    from ingraft.verification.texts import read_texts

    _check_options(adapter, no_embeddings, {"--base": base, "--texts": texts, "--task": task, "--report": report})
    if report is not None:
        from ingraft.report import check_report

        read = [name for name in (adapter, base, texts, task, key) if name is not None]
        check_report(report, merged=Path(merged), inputs=read)
    plans: list[MergePlan] = []
    chosen = read_texts(texts) if texts else None
    with show.progress(format == "human") as progress:
        found = run(
            merged,
            adapter,
            base=base,
            base_precision=base_precision,
            texts=chosen,
            task=task,
            key=key,
            embeddings=not no_embeddings,
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
        show_verification.checks(found)
        show_verification.task(found)
        show_verification.verdict(found, "proven" if adapter is not None else "intact")
        if report is not None:
            show.line("report", str(report))
    if not found.passed:
        raise typer.Exit(1)


def _check_options(adapter: str | None, no_embeddings: bool, others: Mapping[str, object]) -> None:
    """Raise UnusableInput for options that would have no effect."""
    from ingraft.errors import UnusableInput

    given = [name for name, value in others.items() if value is not None]
    if adapter is None and given:
        raise UnusableInput(
            f"{given[0]} belongs to the proof of the model, which needs the adapter.", hint="Pass it with --adapter."
        )
    for name in ("--texts", "--task"):
        if no_embeddings and name in given:
            raise UnusableInput(
                f"{name} needs the models that --no-embeddings leaves out.", hint="Leave out one of them."
            )
