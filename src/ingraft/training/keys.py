"""A config dataclass as a list of keys, and a config out of plain values: what YAML files and flags have in common.

Knows nothing of what the keys mean. Fields may be scalars, optional scalars, literals, tuples, mappings and other
config dataclasses, whose keys are then written with a dot: `lora.r`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ingraft.errors import UnusableInput, nearest
from ingraft.yaml_text import read_yaml

Config = TypeVar("Config")


@dataclass(frozen=True)
class Key:
    """One setting: its place in the config, its type, its default (MISSING where it has none), what it means."""

    path: tuple[str, ...]
    type: Any
    default: Any
    doc: str

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


def keys_of(config: type) -> tuple[Key, ...]:
    """The keys of a config dataclass in the order of its fields; those of a nested one at its place."""
    docs, hints = field_docs(config), get_type_hints(config)
    keys: list[Key] = []
    for entry in fields(config):
        annotation = hints[entry.name]
        if is_dataclass(annotation):
            inner = keys_of(annotation)  # type: ignore[arg-type]
            keys += [Key((entry.name, *key.path), key.type, key.default, key.doc) for key in inner]
        else:
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            keys.append(Key((entry.name,), annotation, default, docs[entry.name]))
    return tuple(keys)


def field_docs(config: type) -> dict[str, str]:
    """Field → the docstring written below it. (Python keeps no such docstrings, so the source is read.)"""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(inspect.cleandoc(text).split())
    return docs


def build(config: type[Config], values: Mapping[str, Any], *, where: str = "", prefix: str = "") -> Config:
    """The config that has `values` (nested like the dataclasses) and defaults for the rest.

    `where` begins each message: the file that the values are from. UnusableInput for a key that does not exist, a
    value of another type and a missing key without default.
    """
    hints = get_type_hints(config)
    given = {str(name).replace("-", "_"): value for name, value in values.items()}
    at = f"{where}: " if where else ""
    for name in given:
        if name not in hints:
            known = [key.name for key in keys_of(config)] + [entry.name for entry in fields(config)]  # type: ignore[arg-type]
            raise UnusableInput(
                f"{at}{prefix}{name} is no setting{_nearest_key(name, known)}.",
                hint="All settings: ingraft train --help",
            )
    arguments: dict[str, Any] = {}
    for entry in fields(config):  # type: ignore[arg-type]
        if entry.name in given:
            arguments[entry.name] = _converted(given[entry.name], hints[entry.name], f"{prefix}{entry.name}", where)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise UnusableInput(f"{at}{prefix}{entry.name} is missing.", hint=f"Pass --{prefix}{_dashed(entry.name)}.")
    return config(**arguments)


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Values by path as nested mappings."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        inner = result
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = value
    return result


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` put over it, key by key through nested mappings."""
    result = {str(name).replace("-", "_"): value for name, value in below.items()}
    for name, value in above.items():
        old = result.get(name)
        result[name] = overlaid(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def plain(value: Any) -> Any:
    """A config, or a value in one, in the types that YAML and JSON have."""
    if is_dataclass(value):
        return {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _nearest_key(name: str, known: Iterable[str]) -> str:
    """`r` is at `lora.r`: a key is also found by its last part."""
    by_end = {key.rsplit(".", 1)[-1]: key for key in known}
    if name in by_end:
        return f" (nearest: {by_end[name]})"
    return nearest(name, known)


def _converted(value: Any, annotation: Any, key: str, where: str, words: tuple[str, ...] = ()) -> Any:
    """`value` as the type that the field has; UnusableInput when it is none. `words` would have done as well."""
    if is_dataclass(annotation):
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise _unfit(value, key, where, f"the settings {', '.join(entry.name for entry in fields(annotation))}")
        return build(annotation, value, where=where, prefix=f"{key}.")  # type: ignore[arg-type]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _one_of(value, arguments, key, where)
    if origin is Literal:
        if value not in arguments:
            raise _unfit(value, key, where, f"{', '.join(map(str, arguments))}{nearest(str(value), arguments)}")
        return value
    if origin is tuple:
        return tuple(
            _converted(item, arguments[0], f"{key}[{number}]" if is_dataclass(arguments[0]) else key, where)
            for number, item in enumerate(_as_list(value, key, where))
        )
    if origin is not None and issubclass(origin, Mapping):
        items = _as_mapping(value, key, where).items()
        return {str(name): _converted(inner, arguments[1], f"{key}.{name}", where) for name, inner in items}
    return value if annotation is Any else _scalar(value, annotation, key, where, words)


def _one_of(value: Any, kinds: tuple[Any, ...], key: str, where: str) -> Any:
    """`value` as the one type of `kinds` that is neither None nor a word, unless it is None or that word."""
    word = value.strip().lower() if isinstance(value, str) else value
    words = tuple(known for kind in kinds if get_origin(kind) is Literal for known in get_args(kind))
    if types.NoneType in kinds and word in (None, "none", "null"):
        return None
    if word in words:
        return word
    [inner] = [kind for kind in kinds if kind is not types.NoneType and get_origin(kind) is not Literal]
    return _converted(value, inner, key, where, words)


def _scalar(value: Any, annotation: Any, key: str, where: str, words: tuple[str, ...]) -> Any:
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    expected = " or ".join((kinds[annotation], *words))
    try:
        if annotation is bool and isinstance(value, str):
            return {"true": True, "yes": True, "false": False, "no": False}[value.strip().lower()]
        if annotation is int and isinstance(value, str):
            return int(value)
        # (YAML reads 1e-3, without a dot, as text.)
        if annotation is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return float(value)
        if annotation is str and isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if annotation in (str, Path) and isinstance(value, (str, Path)):
            return annotation(value)
    except (ValueError, KeyError, OverflowError):
        raise _unfit(value, key, where, expected) from None
    if type(value) is not annotation:
        raise _unfit(value, key, where, expected)
    return value


def _as_list(value: Any, key: str, where: str) -> list[Any]:
    """A list, or as a flag `a,b` or YAML in square brackets."""
    if isinstance(value, str):
        value = _yaml(value, "[]", key, where)
    if not isinstance(value, (list, tuple)):
        raise _unfit(value, key, where, "a list")
    return list(value)


def _as_mapping(value: Any, key: str, where: str) -> Mapping[Any, Any]:
    """A mapping, or as a flag `a: b, c: d` or YAML in braces."""
    if isinstance(value, str):
        value = _yaml(value, "{}", key, where)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _unfit(value, key, where, "a mapping")
    return value


def _yaml(text: str, brackets: str, key: str, where: str) -> Any:
    try:
        return read_yaml(text if text.lstrip().startswith(brackets[0]) else text.join(brackets), key)
    except UnusableInput:
        raise _unfit(text, key, where, "a list or a mapping as YAML") from None


def _unfit(value: Any, key: str, where: str, expected: str) -> UnusableInput:
    at = f"{where}: {key}" if where else f"--{_dashed(key)}"
    return UnusableInput(f"{at} is {str(value)[:60]!r}; expected {expected}.")


def _dashed(name: str) -> str:
    return name.replace("_", "-")
