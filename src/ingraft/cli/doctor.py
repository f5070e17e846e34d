"""`ingraft doctor`: which servers take a directory, and what they lose of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingraft.cli.format import Format


def doctor(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="A model or an adapter: a directory or a Hub id.", show_default=False)
    ],
    servers: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            help="Server to look at: tei, vllm, infinity, fastembed, llama.cpp, sentence-transformers==3.4 …; may be "
            "repeated. Default: all.",
            show_default=False,
        ),
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Write the model with files that older readers take to this directory.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is not empty.")] = False,
    format: Annotated[Format, typer.Option(help="How to print.")] = "human",
) -> None:
    """Tell which servers take DIR as it is, which lose something, and why. Exit code 1: one named by --for does
    not start."""
    from ingraft.cli import show, show_doctor
    from ingraft.serving import examine, rewrite

    found = examine(directory, servers or ())
    rewritten = rewrite(directory, fix, legacy=found.legacy, overwrite=overwrite) if fix is not None else ()
    if fix is not None:
        found = examine(fix, servers or ())
    if format == "json":
        show.json({**found.to_dict(), "rewritten": list(rewritten)})
    else:
        if rewritten:
            show.line("rewrote", f"{', '.join(rewritten)} · {fix}")
        show_doctor.diagnosis(found)
    if servers and not found.starts:
        raise typer.Exit(1)
