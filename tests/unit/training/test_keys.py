"""Plain values into a config: types, nested keys, and what is said of a value that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.keys import build, keys_of, nested, overlaid, plain


@dataclass(frozen=True)
class Inner:
    """Settings inside."""

    size: int = 8
    """How large it is,
    in metres."""


@dataclass(frozen=True)
class Outer:
    """Settings."""

    name: str
    """What it is called."""

    inner: Inner = field(default_factory=Inner)

    rate: float = 0.5
    """How fast."""

    at_most: int | None = None
    """Limit."""

    kind: Literal["plain", "round"] = "plain"
    """Its form."""

    place: Path = Path("here")
    """Where."""

    sizes: tuple[int, ...] = ()
    """Several."""

    words: Mapping[str, str] = field(default_factory=dict)
    """Named."""

    anything: Mapping[str, Any] = field(default_factory=dict)
    """Free."""

    width: int | Literal["auto"] = "auto"
    """A number or a word."""

    more: tuple[Inner, ...] = ()
    """Further ones."""

    on: bool = False
    """Switch."""


def test_keys_are_those_of_the_nested_too() -> None:
    keys = {key.name: key for key in keys_of(Outer)}
    assert list(keys)[:3] == ["name", "inner.size", "rate"]
    assert (keys["inner.size"].flag, keys["inner.size"].default) == ("--inner.size", 8)
    assert keys["inner.size"].doc == "How large it is, in metres."
    assert keys["at_most"].flag == "--at-most"


def test_values_as_yaml_gives_them() -> None:
    values = {
        "name": "a", "inner": {"size": 3}, "rate": "1e-3", "at-most": 4, "kind": "round", "place": "there",
        "sizes": [1, 2], "words": {"a": "b"}, "anything": {"r": 8, "deep": [1]}, "more": [{"size": 1}, {}], "on": True,
        "width": "7",
    }  # fmt: skip
    config = build(Outer, values)
    assert config == Outer(
        "a", Inner(3), 0.001, 4, "round", Path("there"), (1, 2), {"a": "b"}, {"r": 8, "deep": [1]},
        7, (Inner(1), Inner()), True,
    )  # fmt: skip
    assert build(Outer, plain(config)) == config


def test_values_as_flags_give_them() -> None:
    config = build(Outer, {"name": "a", "sizes": "3,4", "words": "a: b, c: d", "anything": "{r: 8}", "at_most": "none"})
    assert (config.sizes, config.words, config.anything) == ((3, 4), {"a": "b", "c": "d"}, {"r": 8})
    assert config.at_most is None
    assert build(Outer, {"name": "a", "width": " Auto "}).width == "auto"
    assert build(Outer, {"name": "a", "width": 3}).width == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "file.yaml: name is missing."),
        ({"nome": "a"}, "file.yaml: nome is no setting (nearest: name)."),
        ({"size": 3}, "file.yaml: size is no setting (nearest: inner.size)."),
        ({"name": "a", "inner": {"sice": 3}}, "file.yaml: inner.sice is no setting (nearest: size)."),
        ({"name": "a", "inner": 3}, "file.yaml: inner is '3'; expected the settings size."),
        ({"name": "a", "inner": {"size": 2.5}}, "file.yaml: inner.size is '2.5'; expected a whole number."),
        ({"name": "a", "inner": {"size": True}}, "file.yaml: inner.size is 'True'; expected a whole number."),
        ({"name": "a", "rate": "fast"}, "file.yaml: rate is 'fast'; expected a number."),
        ({"name": "a", "on": 1}, "file.yaml: on is '1'; expected true or false."),
        ({"name": None}, "file.yaml: name is 'None'; expected text."),
        ({"name": "a", "kind": "rund"}, "file.yaml: kind is 'rund'; expected plain, round (nearest: round)."),
        ({"name": "a", "width": "wide"}, "file.yaml: width is 'wide'; expected a whole number or auto."),
        ({"name": "a", "width": 2.5}, "file.yaml: width is '2.5'; expected a whole number or auto."),
        ({"name": "a", "sizes": 3}, "file.yaml: sizes is '3'; expected a list."),
        ({"name": "a", "words": [1]}, "file.yaml: words is '[1]'; expected a mapping."),
        ({"name": "a", "words": "a: [b"}, "file.yaml: words is 'a: [b'; expected a list or a mapping as YAML."),
        ({"name": "a", "more": [{}, {"sise": 1}]}, "file.yaml: more[1].sise is no setting (nearest: size)."),
    ],
)
def test_what_does_not_fit_is_named(values: Any, message: str) -> None:
    with pytest.raises(UnusableInput) as error:
        build(Outer, values, where="file.yaml")
    assert error.value.message == message


def test_flags_go_over_the_file() -> None:
    file = {"at-most": 4, "inner": {"size": 3}, "name": "a"}
    assert overlaid(file, nested({("inner", "size"): 9, ("rate",): 1.0})) == {
        "at_most": 4, "inner": {"size": 9}, "name": "a", "rate": 1.0,
    }  # fmt: skip
