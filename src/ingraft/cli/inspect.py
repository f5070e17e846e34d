"""`ingraft inspect`: what an adapter or a model directory holds."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from ingraft.cli.format import Format


def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="An adapter or a model: a directory or a Hub id.", show_default=False)
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model to compare an adapter with. Default: what it names.")
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print.")] = "human",
) -> None:
    """Show what PATH holds, from its headers and configs."""
    from ingraft import inspection
    from ingraft.cli import show, show_inspection

    found = inspection.inspect(path, base)
    if format == "json":
        show.json(dataclasses.asdict(found))
    elif isinstance(found, inspection.AdapterInspection):
        show_inspection.adapter(found)
    else:
        show_inspection.model(found)
