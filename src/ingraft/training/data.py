"""Training rows out of a table: which column is what, and which rows cannot be used."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ingraft.errors import UnusableInput
from ingraft.training.tables import Row, Table, read_table

Kind = Literal["pairs", "scored pairs"]

# Column names as people and data sets write them, without case, spaces and punctuation.
_FIRST = {"anchor", "query", "question", "sentence1", "sentencea", "text1", "texta", "premise", "source"}
_SECOND = {
    "positive", "pos", "document", "passage", "answer", "response", "sentence2", "sentenceb", "text2",
    "textb", "hypothesis", "entailment", "target",
}  # fmt: skip
_NEGATIVE = re.compile(r"(hard)?neg(ative)?s?\d*|contradiction")
_SCORE = {"score", "scores", "similarity", "similarityscore", "relatednessscore", "label", "labels"}
_CLASSES = {"label", "labels"}
_IDENTIFIER = re.compile(r"|index|unnamed: \d+|id|.*_id|.*_idx", re.IGNORECASE)

_SHOWN_BAD_ROWS = 5


@dataclass(frozen=True)
class TrainingData:
    """Rows ready for training, column by column, all of one length.

    kind         pairs: query and answer, perhaps with wrong answers; scored pairs: two texts, their similarity
    roles        the file's column → what it is taken as, in the order that the loss wants
    by_position  the columns whose meaning was guessed from their place, because their names say nothing
    ignored      the file's other columns
    columns      role → its values: texts, and for `score` numbers
    notes        what was left out, in words
    """

    path: Path
    kind: Kind
    roles: Mapping[str, str]
    by_position: tuple[str, ...]
    ignored: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, indices: Sequence[int]) -> TrainingData:
        """The rows at `indices`, in that order."""
        return replace(self, columns={role: [values[i] for i in indices] for role, values in self.columns.items()})


def read_training_data(
    path: Path, *, max_pairs: int | None = None, seed: int = 0, skip_bad_rows: bool = False
) -> TrainingData:
    """The rows of a local file, each once, at most `max_pairs` of them drawn by `seed`.

    UnusableInput when the file cannot be read, its columns cannot be told, or (unless `skip_bad_rows`) a row
    cannot be used; the message lists the first of them by line.
    """
    table = read_table(path)
    kind, roles, by_position = _roles(table)
    rows, bad = _usable_rows(table, roles)
    notes = []
    if bad:
        more = f"; and {len(bad) - _SHOWN_BAD_ROWS:,} more" if len(bad) > _SHOWN_BAD_ROWS else ""
        listed = "; ".join(bad[:_SHOWN_BAD_ROWS]) + more
        total = len(table.rows) + len(table.broken)
        if not skip_bad_rows:
            raise UnusableInput(
                f"{path} has {len(bad):,} of {total:,} rows that cannot be used: {listed}.",
                hint="Mend them, or leave them out with --skip-bad-rows.",
            )
        notes.append(f"{len(bad):,} of {total:,} rows left out: {listed}")
    once = list(dict.fromkeys(rows))
    if len(once) < len(rows):
        notes.append(f"{len(rows) - len(once):,} repeated rows left out")
    if max_pairs is not None and len(once) > max_pairs:
        notes.append(f"{max_pairs:,} of {len(once):,} rows drawn at random")
        once = [once[i] for i in sorted(random.Random(seed).sample(range(len(once)), max_pairs))]
    if len(once) < 2:
        raise UnusableInput(f"{path} has {len(once)} rows that can be used; training compares at least 2.")
    columns = dict(zip(roles.values(), map(list, zip(*once, strict=True)), strict=True))
    if kind == "scored pairs":
        _check_scores(path, next(name for name, role in roles.items() if role == "score"), columns["score"])
    ignored = tuple(name for name in table.columns if name not in roles)
    return TrainingData(path, kind, roles, by_position, ignored, columns, tuple(notes))


def _roles(table: Table) -> tuple[Kind, dict[str, str], tuple[str, ...]]:
    """Kind, {column: role} in the order of the loss, and the columns that were taken by their position."""
    if twice := [name for name in table.columns if table.columns.count(name) > 1]:
        raise UnusableInput(f"{table.path} has more than one column called {twice[0]!r}.", hint="Rename one of them.")
    plain = {name: re.sub(r"[\W_]+", "", name).lower() for name in table.columns}
    first = next((name for name in plain if plain[name] in _FIRST), None)
    second = next((name for name in plain if plain[name] in _SECOND), None)
    negatives = [name for name in plain if _NEGATIVE.fullmatch(plain[name])]
    score = next((name for name in plain if plain[name] in _SCORE), None)
    named = {first, second, score, *negatives}

    guessed: list[str] = []
    others = [name for name in table.columns if name not in named and not _IDENTIFIER.fullmatch(name)]
    texts = [name for name in others if _holds_text(table, name)]
    numbers = [name for name in others if _holds_numbers(table, name)]
    if first is None and texts:
        guessed.append(first := texts.pop(0))
    if second is None and texts:
        guessed.append(second := texts.pop(0))
    if first is None or second is None:
        raise UnusableInput(
            f"{table.path} has the columns {', '.join(map(repr, table.columns))}; expected two with texts.",
            hint="Name them anchor and positive, or query and document, or sentence1, sentence2 and score.",
        )
    # A single number beside two texts without a telling name is their score. In other company it may be anything.
    if score is None and not negatives and guessed and not texts and len(numbers) == 1:
        guessed += numbers
        score = numbers[0]

    if score is not None and not negatives:
        return "scored pairs", {first: "sentence1", second: "sentence2", score: "score"}, tuple(guessed)
    roles = {first: "anchor", second: "positive"}
    roles |= {name: f"negative_{n}" if n > 1 else "negative" for n, name in enumerate(negatives, start=1)}
    return "pairs", roles, tuple(guessed)


def _values(table: Table, column: str) -> list[Any]:
    """The first values of a column that are there."""
    at = table.columns.index(column)
    return [row.values[at] for row in table.rows[:200] if row.values[at] not in (None, "")]


def _holds_text(table: Table, column: str) -> bool:
    values = _values(table, column)
    return any(isinstance(value, str) for value in values) and not _holds_numbers(table, column)


def _holds_numbers(table: Table, column: str) -> bool:
    values = _values(table, column)
    return bool(values) and all(_number(value) is not None for value in values)


def _number(value: object) -> float | None:
    """`value` as a finite number; None when it is none."""
    if not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _usable_rows(table: Table, roles: Mapping[str, str]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Rows with their values in the order of `roles`, and what is wrong with each of the others."""
    places = [(table.columns.index(name), name, role) for name, role in roles.items()]
    rows, bad = [], list(table.broken)
    for row in table.rows:
        values, problem = _checked(row, places)
        if problem:
            bad.append(f"{table.unit} {row.line}: {problem}")
        else:
            rows.append(values)
    return rows, bad


def _checked(row: Row, places: Sequence[tuple[int, str, str]]) -> tuple[tuple[Any, ...], str]:
    """The row's values, or what is wrong with the first that cannot be used."""
    values: list[Any] = []
    for place, name, role in places:
        value = row.values[place]
        if value is None or (isinstance(value, str) and not value.strip()):
            return (), f"{name} is empty"
        if role == "score":
            number = _number(value)
            if number is None:
                return (), f"{name} is {str(value)[:30]!r}, expected a number"
            values.append(number)
        elif isinstance(value, str):
            values.append(value.strip())
        else:
            return (), f"{name} is a {type(value).__name__}, expected text"
    return tuple(values), ""


def _check_scores(path: Path, column: str, scores: Sequence[float]) -> None:
    different = sorted(set(scores))
    if len(different) == 1:
        raise UnusableInput(
            f"{path} has the same {column}, {different[0]:g}, in every row: nothing can be learnt from it.",
            hint="Without that column the rows are trained as pairs.",
        )
    if column.lower() in _CLASSES and len(different) > 2 and all(score.is_integer() for score in different):
        raise UnusableInput(
            f"{path} has whole numbers, {different[0]:g} to {different[-1]:g}, in {column}: they look like classes.",
            hint="If they are similarities, name the column score.",
        )
