"""The metadata at the head of a model card: YAML between two `---`, of which no more is changed than has to be.

Readers of cards differ in what `language: no` or `version: 1.10` are, so values are taken as they are written, and
entries that nobody sets stay to the letter, comments and order too.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Mapping
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.yaml_text import Entry, read_entries, read_yaml, write_yaml

_COMMENTS = re.compile(r"(?:^[ \t]*(?:#[^\n]*)?\n)*\Z", re.MULTILINE)


def split_front(text: str) -> tuple[str, str]:
    """The YAML between the two `---` at the beginning of a card, and what follows them."""
    found = re.match(r"\s*---[ \t]*\n(.*?)^---[ \t]*$\n?", text, re.DOTALL | re.MULTILINE)
    return (found[1], text[found.end() :]) if found else ("", text)


def split_card(text: str) -> tuple[dict[str, Any] | None, str]:
    """Metadata and body of a card; None for metadata that are no YAML mapping. Scalars are text, or None for null."""
    front, body = split_front(text)
    try:
        metadata = read_yaml(front, "The card", as_written=True)
    except UnusableInput:
        return None, body
    if metadata is None:
        return {}, body
    return (metadata if isinstance(metadata, dict) else None), body


def card_front(metadata: Mapping[str, Any]) -> str:
    return f"---\n{write_yaml(metadata)}---\n\n"


def edited_front(front: str, values: Mapping[str, Any], without: Collection[str] = ()) -> str | None:
    """The YAML `front` with `values` in place of its own entries or after them, and less those that `without` names.

    values  texts, and lists of texts
    None where that cannot be done entry by entry: in braces, say, or where another entry refers to what goes.
    """
    try:
        entries = read_entries(front, "The card")
        edited = _edited(front, entries, values, without)
        wanted = {entry.key: entry.value for entry in entries if entry.key not in without} | dict(values)
        return edited if read_yaml(edited, "The card", as_written=True) == (wanted or None) else None
    except UnusableInput:
        return None


def _edited(front: str, entries: tuple[Entry, ...], values: Mapping[str, Any], without: Collection[str]) -> str:
    begin, end = (entries[0].start, entries[-1].stop) if entries else (len(front), len(front))
    indent = front[begin : begin + entries[0].indent] if entries else ""
    parts = [front[:begin]]
    for entry in entries:
        part = front[entry.start : entry.stop]
        if entry.key in values and values[entry.key] != entry.value:
            parts += [_written(entry.key, values[entry.key], indent), *_COMMENTS.findall(part)[:1]]
        elif entry.key in without and entry.key not in values:
            parts += _COMMENTS.findall(part)[:1]
        else:
            parts.append(part)
    known = {entry.key for entry in entries}
    parts += [_written(key, value, indent) for key, value in values.items() if key not in known]
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in (*parts, front[end:]) if part)


def _written(key: str, value: Any, indent: str) -> str:
    return textwrap.indent(write_yaml({key: value}, width=1000), indent)
