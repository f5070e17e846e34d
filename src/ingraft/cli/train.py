"""`ingraft train`: an adapter from a file of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ingraft.cli.config_options import Flags, flags_of
from ingraft.cli.format import Format
from ingraft.training.config import TrainingConfig

_CONFIG = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", help="YAML file with settings; flags go over it.", show_default=False),
]
_PRINT = Annotated[bool, typer.Option("--print-config", help="Print all settings as YAML and stop.")]


@flags_of(TrainingConfig, config=(_CONFIG, None), print_config=(_PRINT, False))
def train(config: Path | None, print_config: bool, flags: Flags, format: Format) -> None:
    """Fine-tune a Sentence Transformers model with an adapter, and measure it before and after."""
    from ingraft.cli import show, show_merge, show_training
    from ingraft.training.config_file import resolve, to_yaml

    settings = resolve(config, flags)
    if print_config:
        from ingraft.training.job import settled

        typer.echo(to_yaml(settled(settings)), nl=False)
        return
    from ingraft.train_and_merge import train_and_merge
    from ingraft.training.processes import these_processes

    if not these_processes().writes:
        train_and_merge(settings)
        return
    human = format == "human"
    with show_training.observer(human=human) as observe:
        trained, merged = train_and_merge(settings, observe=observe)
    if human:
        show_training.result(trained, merged)
        if settings.report is not None:
            show.line("report", str(settings.report))
    else:
        show.json(trained.to_dict() | {"merge": show_merge.facts(merged) if merged else None})
