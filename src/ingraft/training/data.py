"""Training rows out of a table: what its columns are, which rows cannot be used, and the rest column by column."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.training.examples import Example, filled_negatives, read_examples
from ingraft.training.roles import Kind, Roles, find_roles
from ingraft.training.sources import read_source
from ingraft.training.tables import Table

_CLASSES = {"label", "labels"}
_SHOWN_BAD_ROWS = 5


@dataclass(frozen=True)
class TrainingData:
    """Rows ready for training, column by column, all of one length.

    kind         what a row is, which decides the loss
    roles        the file's column → what it is taken as, in the order that the loss wants
    by_position  the columns whose meaning was guessed from their place, because their names say nothing
    ignored      the file's other columns
    columns      role → its values: texts, for `score` numbers, for `label` whole numbers
    notes        what was left out, in words
    groups       what each row belongs to where the data say so
    lines        the line (or row) of the file that each row is from, which `unit` names
    """

    path: Path
    kind: Kind
    roles: Mapping[str, str]
    by_position: tuple[str, ...]
    ignored: tuple[str, ...]
    columns: Mapping[str, Sequence[Any]]
    notes: tuple[str, ...] = ()
    groups: tuple[str, ...] | None = None
    lines: tuple[int, ...] = ()
    unit: str = "line"

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def texts(self) -> tuple[Sequence[str], ...]:
        """The columns of the texts that belong together: one, or the first two. Not the negatives."""
        return tuple(self.columns[role] for role in list(self.columns)[:2] if role != "label")

    def take(self, indices: Sequence[int]) -> TrainingData:
        """The rows at `indices`, in that order."""
        return replace(
            self,
            columns={role: [values[i] for i in indices] for role, values in self.columns.items()},
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            lines=tuple(self.lines[i] for i in indices) if self.lines else (),
        )


def read_training_data(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str = "train",
    max_pairs: int | None = None,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> TrainingData:
    """The rows of a file, a directory or a data set of the Hub, each once, at most `max_pairs` drawn by `seed`.

    `columns` is role → column, for names that say nothing. UnusableInput when the data cannot be read, the columns
    cannot be told, or (unless `skip_bad_rows`) a row cannot be used; the message lists the first of them by line.
    """
    table = read_source(str(path), subset=subset, split=split)
    roles = find_roles(table, columns or {})
    rows, bad = read_examples(table, roles)
    notes = _notes_on_bad(table, bad, skip_bad_rows)
    once = list({example.key: example for example in rows}.values())
    if len(once) < len(rows):
        notes.append(f"{len(rows) - len(once):,} repeated rows left out")
    if max_pairs is not None and len(once) > max_pairs:
        notes.append(f"{max_pairs:,} of {len(once):,} rows drawn at random")
        once = [once[i] for i in sorted(random.Random(seed).sample(range(len(once)), max_pairs))]
    if len(once) < 2:
        raise UnusableInput(f"{table.path} has {len(once)} rows that can be used; training compares at least 2.")
    return _by_columns(table, roles, once, notes, seed)


def _notes_on_bad(table: Table, bad: Sequence[str], skip: bool) -> list[str]:
    """A note on the rows that are left out; UnusableInput when they must not be."""
    if not bad:
        return []
    more = f"; and {len(bad) - _SHOWN_BAD_ROWS:,} more" if len(bad) > _SHOWN_BAD_ROWS else ""
    listed = "; ".join(bad[:_SHOWN_BAD_ROWS]) + more
    total = len(table.rows) + len(table.broken)
    if not skip:
        raise UnusableInput(
            f"{table.path} has {len(bad):,} of {total:,} rows that cannot be used: {listed}.",
            hint="Mend them, or leave them out with --skip-bad-rows.",
        )
    return [f"{len(bad):,} of {total:,} rows left out: {listed}"]


def _by_columns(table: Table, roles: Roles, rows: Sequence[Example], notes: list[str], seed: int) -> TrainingData:
    names = [role for role in roles.of.values() if not role.startswith("negative")]
    columns: dict[str, Any] = {role: [row.values[n] for row in rows] for n, role in enumerate(names)}
    if any(role.startswith("negative") for role in roles.of.values()):
        negatives, note = filled_negatives(rows, seed=seed)
        columns |= negatives
        notes += [note] if note else []
    if roles.kind == "scored pairs":
        column = next(name for name, role in roles.of.items() if role == "score")
        _check_scores(table.path, column, columns["score"])
    if roles.kind.startswith("labelled"):
        columns["label"], note = _class_numbers(table.path, roles.kind, columns["label"])
        notes += [note] if note else []
    used = {*roles.of, roles.group}
    return TrainingData(
        path=table.path,
        kind=roles.kind,
        roles=roles.of,
        by_position=roles.by_position,
        ignored=tuple(name for name in table.columns if name not in used),
        columns=columns,
        notes=tuple(notes),
        groups=tuple(row.group for row in rows) if roles.group else None,
        lines=tuple(row.line for row in rows),
        unit=table.unit,
    )


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


def _class_numbers(path: Path, kind: Kind, labels: Sequence[Any]) -> tuple[list[int], str]:
    """Whole numbers for the classes, and a note on how many there are."""
    if kind == "labelled pairs":
        if len(set(labels)) == 1:
            raise UnusableInput(f"{path} has the label {labels[0]:g} in every row: nothing can be learnt from it.")
        return [int(label) for label in labels], ""
    known = {label: n for n, label in enumerate(sorted(set(map(str, labels))))}
    if len(known) == 1 or len(known) == len(labels):
        found = "one class" if len(known) == 1 else "a class of its own"
        raise UnusableInput(f"{path} has {found} in every row: nothing can be learnt from it.")
    return [known[str(label)] for label in labels], f"{len(known):,} classes"
