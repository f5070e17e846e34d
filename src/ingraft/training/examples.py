"""Rows of a table as examples: lists and conversations become texts, several positives become several examples.

FlagEmbedding writes `{"query": …, "pos": […], "neg": […]}`, ms-swift `{"messages": […], "positive_messages": [[…]],
"negative_messages": [[…], …]}`; both are read as they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ingraft.training.roles import Roles, number
from ingraft.training.tables import Row, Table

# More negatives than this for each row cost time and memory and tell little more.
MAX_NEGATIVES = 7


@dataclass(frozen=True)
class Example:
    """Values in the order of the roles other than negatives, and the negatives; `line` is where they are from."""

    line: int
    values: tuple[Any, ...]
    negatives: tuple[str, ...] = ()
    group: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.values, *self.negatives)


def read_examples(table: Table, roles: Roles) -> tuple[list[Example], list[str]]:
    """The examples in a table, and what is wrong with each of its other rows."""
    places = [(table.columns.index(name), name, role) for name, role in roles.of.items()]
    group = table.columns.index(roles.group) if roles.group else None
    examples: list[Example] = []
    bad = list(table.broken)
    for row in table.rows:
        found = _examples(row, places, "" if group is None else str(row.values[group]))
        if isinstance(found, str):
            bad.append(f"{table.unit} {row.line}: {found}")
        else:
            examples += found
    return examples, bad


def _examples(row: Row, places: Sequence[tuple[int, str, str]], group: str) -> list[Example] | str:
    """The examples in a row, or what is wrong with the first value that cannot be used."""
    values: list[list[Any]] = []
    negatives: list[str] = []
    for place, name, role in places:
        value = _texts(row.values[place])
        is_negative = role.startswith("negative")
        if is_negative and isinstance(value, list) and not value:
            continue  # a row without negatives among others with some
        if value is None or (isinstance(value, str) and not value.strip()) or value == []:
            return f"{name} is empty"
        if role in ("score", "label"):
            checked = _label(value) if role == "label" else number(value)
            if checked is None:
                return f"{name} is {str(value)[:30]!r}, expected {'a class' if role == 'label' else 'a number'}"
            values.append([checked])
            continue
        listed = value if isinstance(value, list) and role not in ("anchor", "sentence1", "text") else [value]
        wrong = [type(item).__name__ for item in listed if not isinstance(item, str)]
        if wrong:
            return f"{name} is a {wrong[0]}, expected text"
        stripped = [item.strip() for item in listed]
        if "" in stripped:
            return f"{name} holds an empty text"
        if is_negative:
            negatives += stripped
        else:
            values.append(stripped)
    firsts, seconds, *rest = values
    return [
        Example(
            line=row.line,
            values=(firsts[0], second, *(value[0] for value in rest)),
            negatives=tuple(dict.fromkeys(negative for negative in negatives if negative != second)),
            group=group,
        )
        for second in seconds
    ]


def _label(value: Any) -> Any:
    """A class: a word, or a whole number in whatever form."""
    as_number = number(value)
    if as_number is not None:
        return int(as_number) if as_number.is_integer() else None
    return value.strip() if isinstance(value, str) else None


def _texts(value: Any) -> Any:
    """A conversation as its text, a list of conversations as a list of texts; everything else as it is."""
    if isinstance(value, list) and value:
        if all(isinstance(item, dict) and isinstance(item.get("content"), str) for item in value):
            return "\n".join(item["content"] for item in value)
        if all(isinstance(item, list) for item in value):
            return [_texts(item) for item in value]
    return value


def filled_negatives(rows: Sequence[Example], *, seed: int) -> tuple[dict[str, list[str]], str]:
    """Columns of negatives, equally many for each row, and a note where that took a choice.

    As many as the row with the fewest has, of those that have any; a row with none gets other rows' positives, drawn
    by `seed`. Without any negatives, no columns.
    """
    counts = {len(row.negatives) for row in rows}
    some = counts - {0}
    if not some:
        return {}, "no row has negatives"
    wanted = min(*some, MAX_NEGATIVES)
    rng = random.Random(seed)
    positives = list(dict.fromkeys(str(row.values[1]) for row in rows))
    filled = []
    without = 0
    for row in rows:
        negatives = list(row.negatives[:wanted])
        if not negatives:
            without += 1
            others = [text for text in rng.sample(positives, min(len(positives), wanted + 2)) if text != row.values[1]]
            negatives = [others[n % len(others)] for n in range(wanted)] if others else [str(row.values[0])] * wanted
        filled.append(negatives)
    columns = {f"negative_{n + 1}" if n else "negative": [negatives[n] for negatives in filled] for n in range(wanted)}
    notes = []
    if counts != {wanted}:
        notes.append(f"{wanted} of up to {max(counts)} negatives used")
    if without:
        notes.append(f"{without:,} rows without negatives get others' positives")
    return columns, ", ".join(notes)
