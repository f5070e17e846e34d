"""The verbs by name, each imported when it is asked for: a merge does not wait for the options of train."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from ingraft.startup import importing

# In the order of `ingraft --help`. A module of this name has a function of this name, and imports nothing heavy before
# that runs.
VERBS = (
    "inspect",
    "init",
    "train",
    "merge",
    "verify",
    "diff",
    "doctor",
    "export",
    "embed",
    "push",
    "demo",
    "methods",
)


class Verbs(TyperGroup):
    """Typer's group of the app's commands; the verbs are its first ones."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {**dict.fromkeys(VERBS), **self.commands}  # type: ignore[dict-item]

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in VERBS else self.commands.get(cmd_name)


@cache
def _command(verb: str) -> Any:
    with importing():
        function = getattr(import_module(f"ingraft.cli.{verb}"), verb)
    alone = typer.Typer(add_completion=False)
    alone.command()(function)
    return typer.main.get_command(alone)
