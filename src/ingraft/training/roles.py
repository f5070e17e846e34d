"""Which column of a table is what: by a mapping of the user's, by its name, or by its place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ingraft.errors import UnusableInput, nearest
from ingraft.training.tables import Table

Kind = Literal["pairs", "scored pairs", "labelled pairs", "labelled texts"]

# Column names as people and data sets write them, without case, spaces and punctuation.
_FIRST = {
    "anchor", "query", "question", "sentence1", "sentencea", "text1", "texta", "premise", "source", "messages",
}  # fmt: skip
_SECOND = {
    "positive", "pos", "document", "passage", "answer", "response", "sentence2", "sentenceb", "text2",
    "textb", "hypothesis", "entailment", "target", "positivemessages",
}  # fmt: skip
_NEGATIVE = re.compile(r"(hard)?neg(ative)?s?\d*|contradiction|rejected(response)?s?|negativemessages")
_SCORE = {"score", "scores", "similarity", "similarityscore", "relatednessscore", "label", "labels"}
_CLASSES = {"label", "labels"}
_ONE_TEXT = {"text", "sentence", "utterance", "content", "document", "question", "query"}
_CLASS_OF_TEXT = {"label", "labels", "class", "category", "intent", "topic", "labeltext"}
_GROUP = {"group", "groupid"}
_IDENTIFIER = re.compile(r"|index|unnamed: \d+|id|.*_id|.*_idx|(pos|neg)_scores|prompt|type", re.IGNORECASE)

# What a role is called in a mapping → its place. (`document` is what a query looks for.)
_MAPPED = {
    "anchor": "anchor", "query": "anchor", "positive": "positive", "document": "positive", "negative": "negative",
    "sentence1": "sentence1", "sentence2": "sentence2", "score": "score", "label": "label", "text": "text",
    "group": "group",
}  # fmt: skip
ROLES = tuple(_MAPPED)


@dataclass(frozen=True)
class Roles:
    """What the columns are taken as.

    of           column → role, in the order that the loss wants
    by_position  the columns whose meaning was guessed from their place, because their names say nothing
    group        the column whose rows belong together in a split, or None
    """

    kind: Kind
    of: Mapping[str, str]
    by_position: tuple[str, ...] = ()
    group: str | None = None


def find_roles(table: Table, mapping: Mapping[str, str]) -> Roles:
    """The roles of the table's columns; `mapping` is role → column and decides alone where it is given.

    UnusableInput when they cannot be told.
    """
    if twice := [name for name in table.columns if table.columns.count(name) > 1]:
        raise UnusableInput(f"{table.path} has more than one column called {twice[0]!r}.", hint="Rename one of them.")
    given = {role: column for role, column in mapping.items() if role != "group"}
    group = _group(table, mapping)
    if given:
        return _mapped(table, given, group)
    plain = {name: re.sub(r"[\W_]+", "", name).lower() for name in table.columns if name != group}
    return _labelled_texts(table, plain, group) or _recognised(table, plain, group)


def _group(table: Table, mapping: Mapping[str, str]) -> str | None:
    if "group" in mapping:
        _check_column(table, "group", mapping["group"])
        return mapping["group"]
    return next((name for name in table.columns if re.sub(r"[\W_]+", "", name).lower() in _GROUP), None)


def _check_column(table: Table, role: str, column: str) -> None:
    if column not in table.columns:
        raise UnusableInput(
            f"{table.path} has no column {column!r}{nearest(column, table.columns)}, which columns.{role} names.",
            hint="It has: " + ", ".join(table.columns),
        )


def _mapped(table: Table, mapping: Mapping[str, str], group: str | None) -> Roles:
    by_role: dict[str, str] = {}
    for name, column in mapping.items():
        role = _MAPPED.get(name) or (name if re.fullmatch(r"negative_\d+", name) else None)
        if role is None:
            raise UnusableInput(
                f"columns.{name} is no role of a column{nearest(name, ROLES)}.", hint="Roles: " + ", ".join(ROLES)
            )
        _check_column(table, name, column)
        by_role[role] = column
    texts = [role for role in by_role if role not in ("score", "label")]
    if "text" in by_role and "label" in by_role:
        return Roles("labelled texts", {by_role["text"]: "text", by_role["label"]: "label"}, group=group)
    first = by_role.get("anchor") or by_role.get("sentence1")
    second = by_role.get("positive") or by_role.get("sentence2")
    if first is None or second is None:
        raise UnusableInput(
            f"columns names {', '.join(mapping)}; expected two texts or a text and its class.",
            hint="For example: anchor and positive; sentence1, sentence2 and score; text and label.",
        )
    negatives = [by_role[role] for role in sorted(texts) if role.startswith("negative")]
    score = by_role.get("score") or by_role.get("label")
    if score and negatives:
        raise UnusableInput("columns names negatives and a score; expected one of them.")
    return _pairs(table, first, second, negatives, score, "label" in by_role, (), group)


def _pairs(
    table: Table,
    first: str,
    second: str,
    negatives: Sequence[str],
    score: str | None,
    is_label: bool,
    guessed: Sequence[str],
    group: str | None,
) -> Roles:
    if score is not None and not negatives:
        two_classes = is_label and {number(value) for value in values_of(table, score, all_rows=True)} <= {0, 1}
        if two_classes:
            roles = {first: "sentence1", second: "sentence2", score: "label"}
            return Roles("labelled pairs", roles, tuple(guessed), group)
        return Roles("scored pairs", {first: "sentence1", second: "sentence2", score: "score"}, tuple(guessed), group)
    roles = {first: "anchor", second: "positive"}
    roles |= {name: f"negative_{n}" if n > 1 else "negative" for n, name in enumerate(negatives, start=1)}
    return Roles("pairs", roles, tuple(guessed), group)


def _labelled_texts(table: Table, plain: Mapping[str, str], group: str | None) -> Roles | None:
    """One text and its class, where there is no second text."""
    texts = [name for name in plain if plain[name] in _ONE_TEXT and _holds_text(table, name)]
    classes = [name for name in plain if plain[name] in _CLASS_OF_TEXT]
    if len(texts) != 1 or not classes:
        return None
    # `label` beside `label_text` (or whatever else names the class) is one class, not a second text.
    others = [name for name in plain if name not in (*texts, *classes) and not _IDENTIFIER.fullmatch(name)]
    if any(_holds_text(table, name) for name in others):
        return None
    return Roles("labelled texts", {texts[0]: "text", classes[0]: "label"}, (), group)


def _recognised(table: Table, plain: Mapping[str, str], group: str | None) -> Roles:
    first = next((name for name in plain if plain[name] in _FIRST), None)
    second = next((name for name in plain if plain[name] in _SECOND), None)
    negatives = [name for name in plain if _NEGATIVE.fullmatch(plain[name])]
    score = next((name for name in plain if plain[name] in _SCORE), None)
    named = {first, second, score, *negatives}

    guessed: list[str] = []
    others = [name for name in plain if name not in named and not _IDENTIFIER.fullmatch(name)]
    texts = [name for name in others if _holds_text(table, name)]
    numbers = [name for name in others if _holds_numbers(table, name)]
    if first is None and texts:
        guessed.append(first := texts.pop(0))
    if second is None and texts:
        guessed.append(second := texts.pop(0))
    if first is None or second is None:
        raise UnusableInput(
            f"{table.path} has the columns {', '.join(map(repr, table.columns))}; expected two with texts.",
            hint="Name them anchor and positive, or query and document, or sentence1, sentence2 and score,\n"
            "or say which is which: --columns 'anchor: NAME, positive: NAME'",
        )
    # A single number beside two texts without a telling name is their score. In other company it may be anything.
    if score is None and not negatives and guessed and not texts and len(numbers) == 1:
        guessed += numbers
        score = numbers[0]
    is_label = score is not None and plain[score] in _CLASSES
    return _pairs(table, first, second, negatives, score, is_label, guessed, group)


def values_of(table: Table, column: str, *, all_rows: bool = False) -> list[Any]:
    """The first values (or all) of a column that are there."""
    at = table.columns.index(column)
    rows = table.rows if all_rows else table.rows[:200]
    return [row.values[at] for row in rows if row.values[at] not in (None, "")]


def _holds_text(table: Table, column: str) -> bool:
    values = values_of(table, column)
    return any(isinstance(value, str) for value in values) and not _holds_numbers(table, column)


def _holds_numbers(table: Table, column: str) -> bool:
    values = values_of(table, column)
    return bool(values) and all(number(value) is not None for value in values)


def number(value: object) -> float | None:
    """`value` as a finite number; None when it is none."""
    if not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
