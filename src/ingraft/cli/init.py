"""`ingraft init`: a config to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Training rows: a file, a directory or a Hub id.", show_default=False)
    ],
    config: Annotated[Path, typer.Option(help="YAML file to write.")] = Path("train.yaml"),
    model: Annotated[str | None, typer.Option(help="Base model to name in it.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the YAML file.")] = False,
) -> None:
    """Write a commented config for `ingraft train`, after a look at DATA."""
    from ingraft.cli import show_training
    from ingraft.publish import check_file
    from ingraft.training.starter import MODEL, starter, write_starter

    check_file(config, inputs=[data])
    found = starter(data, model=model or MODEL)
    write_starter(found, config, overwrite=overwrite)
    show_training.starter(found, config)
