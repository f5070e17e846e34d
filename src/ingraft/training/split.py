"""Hold out rows so that the figure on them means something: no text of theirs occurs in training."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ingraft.training.data import TrainingData

# Measuring more rows takes time and tells little more: the error of an accuracy at 2,000 rows is about 1 %.
MAX_HELD_OUT = 2_000


@dataclass(frozen=True)
class Split:
    """Indices of rows. `apart` is False when the rows are so entangled that texts had to be on both sides."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]
    apart: bool = True


def split(data: TrainingData, *, share: float, seed: int) -> Split:
    """About `share` of the rows held out, at most MAX_HELD_OUT, by whole groups: rows that have a text in
    common, and those that the data say belong together.

    Where one group is nearly the whole file, single rows are drawn instead and `apart` is False. At least two
    rows stay for training.
    """
    rows = len(data)
    wanted = min(round(rows * share), MAX_HELD_OUT, rows - 2)
    if wanted < 1:
        return Split(tuple(range(rows)), ())
    groups = groups_of_rows(*data.texts, groups=data.groups)
    random.Random(seed).shuffle(groups)
    held: list[int] = []
    for group in groups:
        if len(held) + len(group) <= wanted:
            held += group
    apart = 2 * len(held) >= wanted
    if not apart:
        held = random.Random(seed).sample(range(rows), wanted)
    out = set(held)
    return Split(tuple(i for i in range(rows) if i not in out), tuple(sorted(held)), apart)


def groups_of_rows(*texts: Sequence[str], groups: Sequence[str] | None = None) -> list[list[int]]:
    """Rows that share a text or a group, directly or through other rows. Neither case nor surrounding space of a text
    matters."""
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = key = parent.setdefault(above, above)  # halve the path on the way up
        return key

    columns: list[list[Hashable]] = [[text.strip().casefold() for text in column] for column in texts]
    if groups is not None:
        columns.append([("group", group) for group in groups])
    keys = list(zip(*columns, strict=True))
    for first, *others in keys:
        for other in others:
            parent[root(first)] = root(other)
    found: dict[Hashable, list[int]] = {}
    for row, (first, *_) in enumerate(keys):
        found.setdefault(root(first), []).append(row)
    return list(found.values())
