"""The head of a model card: read as it is written, and changed entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ingraft.front_matter import card_front, edited_front, split_card, split_front


@pytest.mark.parametrize(
    ("text", "metadata", "body"),
    [
        ("", {}, ""),
        ("# no front", {}, "# no front"),
        ("---\nnot closed: 1\n", {}, "---\nnot closed: 1\n"),
        ("---\n---\nbody", {}, "body"),
        ("---\na: 1\n---\nb\n---\nc", {"a": "1"}, "b\n---\nc"),
        ("---\na: '\n---\nbody", None, "body"),
    ],
)
def test_front_matter(text: str, metadata: dict[str, Any] | None, body: str) -> None:
    assert split_card(text) == (metadata, body)


KEPT = """# as the Hub wants it
language: no  # Norwegian
license: no
version: 1.10
size: 1e3
when: 2020-01-01
quoted: 'on'
datasets:
- a/b
- 007
# of the base
nested: {a: ~, b: [yes, 0o7]}
empty:
text: |
  # no comment

  last
"""
OWN = """base_model:
- someone/x
# what follows
tags: [a,
  b]
"""


@pytest.mark.parametrize("front", [KEPT + OWN, OWN + KEPT, KEPT.rstrip() + "\n\n" + OWN.rstrip()])
def test_entries_that_nobody_sets_stay_to_the_letter(front: str) -> None:
    edited = edited_front(front, {"tags": ["a", "no"], "new": "1.10"}, ("base_model",))

    assert edited is not None
    assert KEPT in edited
    assert "base_model" not in edited
    assert "# what follows\n" in edited
    assert edited.endswith("new: '1.10'\n")
    assert yaml.safe_load(edited)["tags"] == ["a", "no"]


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("", "tags:\n- x\n"),
        ("# nothing yet\n", "# nothing yet\ntags:\n- x\n"),
        ("  a: 1\n  base: 2\n  b:\n  - 3\n", "  a: 1\n  b:\n  - 3\n  tags:\n  - x\n"),
        ("a: 1\n...\n", "a: 1\ntags:\n- x\n...\n"),
        ("%YAML 1.1\n---\na: 1\n", "%YAML 1.1\n---\na: 1\ntags:\n- x\n"),
        ("a: 1\u2028b: 2\n", None),
        ("tags: [x]  # as they should be\n", "tags: [x]  # as they should be\n"),
        ("base: 1\n", "tags:\n- x\n"),
        ("a: &x 1\nb: *x\n", "a: &x 1\nb: *x\ntags:\n- x\n"),
        ("base: &x 1\nb: *x\n", None),  # would refer to nothing
        ("{a: 1}\n", None),
        ("? a\n: 1\n", None),
        ("- a\n", None),
        ("just words\n", None),
        ("a: 1\na: 2\n", None),
    ],
)
def test_edited(front: str, expected: str | None) -> None:
    assert edited_front(front, {"tags": ["x"]}, ("base",)) == expected


def test_what_is_written_anew_is_text_for_every_reader() -> None:
    metadata: dict[str, Any] = {"language": ["no", "1.10"], "license": None}
    assert split_card(card_front(metadata))[0] == metadata
    assert yaml.safe_load(split_front(card_front(metadata))[0]) == metadata
