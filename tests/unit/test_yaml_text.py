"""YAML out of other people's files: the types of JSON, or one line that names file and line."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.yaml_text import read_yaml, write_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGED_LAUGHS = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 0.5, .inf, true, no, ~, x]", {"a": [1, 0.5, float("inf"), True, False, None, "x"]}),
        ("1: a\nno: b\n1.10: c\n~: d", {"1": "a", "no": "b", "1.10": "c", "~": "d"}),
        ("a: 2020-01-31\nb: 2020-13-45\nc: 2001-12-14t21:59:43.10-05:00", {"a": "2020-01-31", "b": "2020-13-45",
                                                                          "c": "2001-12-14t21:59:43.10-05:00"}),
        ("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3},
                                                         "c": {"x": 1, "y": 2}}),
        ("a: =", {"a": "="}),
        ("!!map {a: !!str 1}", {"a": "1"}),
    ],
)  # fmt: skip
def test_values(text: str, value: Any) -> None:
    assert read_yaml(text, "x.yaml") == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("language: no\nversion: 1.10\nsize: 1e3", {"language": "no", "version": "1.10", "size": "1e3"}),
        ("a: !odd [1, ~, '']\nb: !!python/name:os.system x\n<<: y", {"a": ["1", None, ""], "b": "x", "<<": "y"}),
    ],
)
def test_values_as_written(text: str, value: Any) -> None:
    assert read_yaml(text, "x.yaml", as_written=True) == value


@pytest.mark.parametrize("as_written", [False, True])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [", "not YAML: .* in line 2"),
        ("a: 1\n\tb: 2", "in line 2"),
        ("a: 1\nb: \0", "a character that no text has in line 2"),
        ("a: \ud800", "a character that no text has in line 1"),
        ("a: 1\nb: 2\na: 3", "the key 'a' for the second time in line 3"),
        ("a: 1\n? [x]\n: 2", "a key that is no text in line 2"),
        ("a: 1\n--- \nb: 2", "not YAML: found another document in line 2"),
        ("a: &a\n- 1\n- *a", "a value that contains itself in line 3"),
        ("a: *b", "undefined alias.* in line 1"),
        (LAUGHS, "more than 200,000 values in line"),
        ("[" * 5_000, "nested too deeply"),
        ("[" * 51, "nested too deeply"),
        ("- " * 5_000, "nested too deeply"),
        ("#" * 1_000_001, "1,000,001 characters"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text: str, message: str, as_written: bool) -> None:
    started = time.monotonic()
    with pytest.raises(UnusableInput, match=message) as error:
        read_yaml(text, "x.yaml", as_written=as_written)

    assert str(error.value).startswith("x.yaml ")
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 10  # aliases are not followed before they are counted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MERGED_LAUGHS, "more than 200,000 values in line"),
        ("a: " + "9" * 5_000, "which is no int in line 1"),
        ("a: 0x_", "'0x_', which is no int"),
        ("a: !!float x", "'x', which is no float"),
        ("a: !!bool x", "'x', which is no bool"),
        ("!!map x", "a tag that its value does not fit"),
        ("a: !!seq x", "sequence.* in line 1"),
        ("a: !!binary aGk=", "the tag .*binary.*, which settings do not have in line 1"),
        ("\na: !!python/object/apply:os.system [touch x]", "the tag .*os.system.* in line 2"),
        ("a: !!timestamp 2020-13-45", "the tag .*timestamp"),
        ("a: !!set {x}", "the tag .*set"),
        ("<<: 3", "mapping.* for merging.* in line 1"),
    ],
)
def test_types_that_json_does_not_have(text: str, message: str) -> None:
    with pytest.raises(UnusableInput, match=message):
        read_yaml(text, "x.yaml")


def test_brackets_that_pyyaml_takes_seconds_to_read() -> None:
    started = time.process_time()
    with pytest.raises(UnusableInput, match="nested too deeply"):
        read_yaml("{a: b, " + "[" * 3_000, "x.yaml")

    assert time.process_time() - started < 1


def test_what_is_written_is_read_back() -> None:
    value = {"a": ["no", "1.10", "1e3", "2020-01-31", "ä", None, 2, ""], "b": {"x y": 0.5}}
    assert read_yaml(write_yaml(value), "x.yaml") == value
