"""Batches of rows, as the library's samplers draw them, and each batch in equal parts for the processes of a run.

The library lets every process draw a batch of its own, which is another training than that of one process: other rows
meet as wrong answers, a text can be in two of the batches, and processes can get parts of different data sets. Here a
batch is drawn as one process draws it, and then shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ingraft.errors import UnusableInput

if TYPE_CHECKING:
    from ingraft.training.run_data import Dataset

# Of classes, at least two rows each of two classes: a sampler that groups by class draws pairs.
_PAIR, _FEWEST_OF_CLASSES = 2, 4


def check_parts(datasets: Sequence[Dataset], rows: int, processes: int) -> None:
    """UnusableInput when `rows` for each process are too few for data with classes."""
    classes = any(dataset.rows.kind == "labelled texts" for dataset in datasets)
    if classes and processes > 1 and (rows < _FEWEST_OF_CLASSES or rows % _PAIR):
        raise UnusableInput(
            f"--batch-size gives each of {processes} processes {rows} rows; texts with classes need an even number, "
            f"{_FEWEST_OF_CLASSES} or more.",
            hint=f"Take a multiple of {processes * _PAIR}, from {processes * _FEWEST_OF_CLASSES}.",
        )


def samplers(datasets: Sequence[Dataset], processes: int) -> dict[str, Any]:
    """The trainer's arguments for batches of all processes together."""
    from sentence_transformers.base.sampler import ProportionalBatchSampler

    kind = _sampler(datasets)
    if processes == 1:
        return {"batch_sampler": kind}
    if len(datasets) == 1:
        pairs = datasets[0].rows.kind == "labelled texts"
        return {
            "batch_sampler": lambda rows, **given: _in_parts(_whole(kind, rows, given, processes), processes, pairs)
        }
    pairs = any(dataset.rows.kind == "labelled texts" for dataset in datasets)
    return {
        "batch_sampler": lambda rows, **given: _whole(kind, rows, given, processes),
        "multi_dataset_batch_sampler": lambda rows, **given: _in_parts(
            ProportionalBatchSampler(rows, **given), processes, pairs
        ),
    }


def sampler_by_columns(dataset: Any, **settings: Any) -> Any:
    """Batches with several texts of a class where a row is a text and its class, else without repeated texts."""
    from sentence_transformers.base.sampler import GroupByLabelBatchSampler, NoDuplicatesBatchSampler

    kind = GroupByLabelBatchSampler if "text" in dataset.column_names else NoDuplicatesBatchSampler
    return kind(dataset, **settings)


def _sampler(datasets: Sequence[Dataset]) -> Callable[..., Any]:
    from sentence_transformers.base.sampler import GroupByLabelBatchSampler, NoDuplicatesBatchSampler

    kinds = {dataset.rows.kind for dataset in datasets}
    if kinds == {"labelled texts"}:
        return GroupByLabelBatchSampler
    if "labelled texts" in kinds:
        return sampler_by_columns
    # Two equal positives in a batch would each be a wrong answer to the other's query.
    return NoDuplicatesBatchSampler if "pairs" in kinds else shuffled


def shuffled(dataset: Any, **settings: Any) -> Any:
    """Batches of rows in random order, which the seed and the epoch alone decide."""
    import torch
    from sentence_transformers.base.sampler import DefaultBatchSampler

    class Shuffled(DefaultBatchSampler):  # type: ignore[misc,unused-ignore]
        def __iter__(self) -> Iterator[list[int]]:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(len(dataset), generator=generator).tolist()
            for start in range(0, len(order), self.batch_size):
                yield order[start : start + self.batch_size]

    return Shuffled(dataset, **settings)


def _whole(kind: Callable[..., Any], dataset: Any, given: dict[str, Any], processes: int) -> Any:
    """The sampler that one process would have.

    The library gives the batch size of each of them, and drops the last batch, which may not be enough for all.
    """
    return kind(dataset, **{**given, "batch_size": given["batch_size"] * processes, "drop_last": False})


def _in_parts(whole: Any, processes: int, pairs: bool) -> Any:
    """A sampler that gives each batch of `whole` as consecutive parts of one size, a part for each process.

    Rows that do not share out evenly, fewer than there are processes, are left out of the last batch of an epoch.
    pairs  keep two rows that follow each other in one part
    """
    from torch.utils.data import BatchSampler

    step, fewest = (_PAIR, _FEWEST_OF_CLASSES) if pairs else (1, 1)

    class InParts(BatchSampler):
        # No size of its own: accelerate would hold back parts that are smaller than it.
        batch_size: Any = None
        drop_last = False

        # accelerate tells a sampler's own sampler of the epoch where it hands out batches to several processes.
        sampler: Any = whole

        def __init__(self) -> None:
            pass

        def __iter__(self) -> Iterator[list[int]]:
            for batch in whole:
                size = len(batch) // processes // step * step
                if size >= fewest:
                    for part in range(processes):
                        yield batch[part * size : (part + 1) * size]

        def __len__(self) -> int:
            return processes * len(whole)

    return InParts()
