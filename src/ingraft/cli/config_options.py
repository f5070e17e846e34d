"""A config dataclass as the options of a verb: `learning_rate` is `--learning-rate`, its docstring the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from ingraft.cli.merge import Format
from ingraft.training.config import field_docs

Config = TypeVar("Config")


def options_of(config: type[Config]) -> Callable[[Callable[[Config, Format], None]], Callable[..., None]]:
    """Turn a verb that takes a `config` and a format into a command: an option for each field, and `--format`."""

    def decorate(verb: Callable[[Config, Format], None]) -> Callable[..., None]:
        def command(*, format: Format, **settings: Any) -> None:
            verb(config(**settings), format)

        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__signature__ = inspect.Signature(_parameters(config))  # type: ignore[attr-defined]
        return command

    return decorate


def _parameters(config: type[Any]) -> list[inspect.Parameter]:
    docs, types = field_docs(config), get_type_hints(config)
    parameters = []
    for field in fields(config):
        required = field.default is MISSING
        # Named in full, or typer would add --no-overwrite and the like.
        option = typer.Option(f"--{field.name.replace('_', '-')}", help=docs[field.name], show_default=not required)
        parameters.append(_parameter(field.name, Annotated[types[field.name], option], field.default, required))
    shown = typer.Option(help="How to print the result.")
    parameters.append(_parameter("format", Annotated[Format, shown], "human", False))
    return parameters


def _parameter(name: str, annotation: Any, default: Any, required: bool) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(
        name, kind, annotation=annotation, default=inspect.Parameter.empty if required else default
    )
