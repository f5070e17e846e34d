"""`ingraft diff`: what differs between two model directories."""

from __future__ import annotations

from typing import Annotated

import typer

from ingraft.cli.format import Format


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A model's directory or Hub id.", show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help="The model to compare it with.", show_default=False)],
    format: Annotated[Format, typer.Option(help="How to print what differs.")] = "human",
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
) -> None:
    """Compare two models, tensor by tensor and file by file. Exit code 1 when they differ."""
    from ingraft.cli import show, show_diff
    from ingraft.diff import compare_models

    with show.progress(format == "human") as progress:
        found = compare_models(a, b, workers=workers, progress=show_diff.stage(progress))
    if format == "json":
        show.json(found.to_dict())
    else:
        show_diff.models(found)
    if not found.equal:
        raise typer.Exit(1)
