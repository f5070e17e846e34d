"""A config dataclass as the options of a verb: `lora.r` is `--lora.r`, its docstring the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer

from ingraft.cli.format import Format
from ingraft.training.keys import Key, build, keys_of, nested

Config = TypeVar("Config")
Flags = Mapping[tuple[str, ...], Any]


def options_of(config: type[Config]) -> Callable[[Callable[[Config, Format], None]], Callable[..., None]]:
    """Turn a verb that takes a `config` and a format into a command: an option for each key, and `--format`."""

    def decorate(verb: Callable[[Config, Format], None]) -> Callable[..., None]:
        def run(flags: Flags, format: Format) -> None:
            verb(build(config, nested(flags)), format)

        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        return flags_of(config)(run)

    return decorate


def flags_of(config: type[Any], /, **more: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a verb that takes the given `flags` by path, a format and what `more` declares into a command.

    `more` is name → (annotation, default) of further parameters. A flag that is not given is not among the flags.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        keys = {"__".join(key.path): key for key in keys_of(config)}

        def command(**values: Any) -> None:
            flags = {keys[name].path: value for name, value in values.items() if name in keys and value is not None}
            rest = {name: value for name, value in values.items() if name not in keys}
            verb(flags=flags, **rest)

        parameters = [_parameter(name, annotation, default) for name, (annotation, default) in more.items()]
        parameters += [_parameter(name, _option(key), None) for name, key in keys.items()]
        shown = typer.Option(help="How to print the result.")
        parameters.append(_parameter("format", Annotated[Format, shown], "human"))
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _option(key: Key) -> Any:
    """The option of a key. It has no default of its own: what is not given may stand in a file."""
    kind = _flag_type(key.type)
    # A flag can also be taken back where the config file has set it.
    names = (f"{key.flag}/--no-{key.flag.removeprefix('--')}",) if kind is bool else (key.flag,)
    default = "" if key.default in (MISSING, None, False, (), {}) else f" Default: {_shown(key.default)}."
    option = typer.Option(*names, help=key.doc + default, show_default=False, metavar=_metavar(key.type))
    return Annotated[kind | None, option]


def _flag_type(annotation: Any) -> Any:
    """The type that the command line reads: scalars as they are, lists and mappings as text."""
    inner = _without_none(annotation)
    if bool in get_args(inner):  # or a word, which is what it is when the flag is not given
        return bool
    if inner in (int, float, bool, str, Path) or get_origin(inner) is Literal:
        return inner
    return str


def _metavar(annotation: Any) -> str | None:
    origin = get_origin(_without_none(annotation))
    if origin is tuple:
        return "A,B,…"
    if origin in (Union, UnionType):  # a number or a word
        kind, words = get_args(annotation)
        if kind is bool:
            return None
        return "|".join(("INTEGER" if kind is int else "FLOAT", *get_args(words)))
    return "KEY: VALUE, …" if origin is not None and origin is not Literal else None


def _shown(default: Any) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _without_none(annotation: Any) -> Any:
    arguments = get_args(annotation)
    if NoneType not in arguments:
        return annotation
    [inner] = [argument for argument in arguments if argument is not NoneType]
    return inner


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
