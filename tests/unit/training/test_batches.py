"""Batches of all processes together, shared out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.batches import check_parts, samplers


def datasets(*kinds: str) -> list[Any]:
    return [SimpleNamespace(rows=SimpleNamespace(kind=kind)) for kind in kinds]


def rows(kind: str, count: int) -> Any:
    from datasets import Dataset

    if kind == "labelled texts":
        return Dataset.from_dict({"text": [f"t{n}" for n in range(count)], "label": [n % 3 for n in range(count)]})
    names = ("anchor", "positive") if kind == "pairs" else ("sentence1", "sentence2")
    columns: dict[str, Any] = {name: [f"{name} {n}" for n in range(count)] for name in names}
    return Dataset.from_dict(columns | ({"score": [n / count for n in range(count)]} if kind == "scored pairs" else {}))


def drawn(kind: str, count: int, *, processes: int, epoch: int = 0, size: int = 12) -> list[list[int]]:
    import torch

    sampler = samplers(datasets(kind), processes)["batch_sampler"](
        rows(kind, count), batch_size=size // processes, drop_last=processes > 1,
        valid_label_columns=["label", "score"], generator=torch.Generator(), seed=3,
    )  # fmt: skip
    (sampler.sampler if processes > 1 else sampler).set_epoch(epoch)  # as accelerate finds it
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


@pytest.mark.parametrize("kind", ["pairs", "scored pairs", "labelled texts"])
@pytest.mark.parametrize("processes", [2, 3])
def test_each_batch_of_one_process_in_equal_parts(kind: str, processes: int) -> None:
    for epoch in (0, 1):
        whole = drawn(kind, 60, processes=1, epoch=epoch)
        parts = drawn(kind, 60, processes=processes, epoch=epoch)
        shared = [parts[n : n + processes] for n in range(0, len(parts), processes)]
        together = [[row for part in batch for row in part] for batch in shared]
        assert together == whole
        assert {len(part) for part in parts} == {12 // processes}
    assert drawn(kind, 60, processes=2, epoch=0) != drawn(kind, 60, processes=2, epoch=1)


def test_what_does_not_share_out_is_left_out_of_the_last_batch() -> None:
    parts = drawn("pairs", 29, processes=2)  # 12, 12 and 5
    assert [len(part) for part in parts] == [6, 6, 6, 6, 2, 2]
    assert len({row for part in parts for row in part}) == 28


def test_several_data_sets_never_meet_in_a_batch() -> None:
    import torch
    from torch.utils.data import ConcatDataset

    given = samplers(datasets("pairs", "scored pairs"), 2)
    settings: dict[str, Any] = {"drop_last": True, "valid_label_columns": ["score"], "seed": 0}
    generator = torch.Generator()
    both = [rows("pairs", 24), rows("scored pairs", 24)]
    each = [given["batch_sampler"](one, batch_size=6, generator=generator, **settings) for one in both]
    sampler = given["multi_dataset_batch_sampler"](
        ConcatDataset(both), batch_samplers=each, generator=generator, seed=0
    )
    parts = list(sampler)
    assert [len(part) for part in parts] == [6] * 8 == [6] * len(sampler)
    for first, second in zip(parts[::2], parts[1::2], strict=True):
        assert len({row // 24 for row in (*first, *second)}) == 1
    assert sorted(row for part in parts for row in part) == list(range(48))


def test_too_few_rows_for_classes_are_refused() -> None:
    with pytest.raises(UnusableInput, match="gives each of 2 processes 3 rows; texts with classes need an even number"):
        check_parts(datasets("labelled texts"), 3, 2)
    check_parts(datasets("labelled texts"), 4, 2)
    check_parts(datasets("labelled texts"), 3, 1)
    check_parts(datasets("pairs"), 1, 2)
