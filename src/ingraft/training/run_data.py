"""All data of a run, as far as that goes before a model is loaded: read, choose losses, hold out, look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.hub import expanded
from ingraft.training.beir import is_beir, judged_splits
from ingraft.training.config import DatasetSettings, TrainingConfig
from ingraft.training.data import TrainingData, read_training_data
from ingraft.training.everyday_pairs import general_task
from ingraft.training.facts import DataFacts
from ingraft.training.losses import check_loss_rows, loss_name
from ingraft.training.mining import check_minable
from ingraft.training.near_duplicates import near_duplicates
from ingraft.training.split import Split, split
from ingraft.training.tasks import Task, held_out_task, task_of_beir

# The share of the training rows to choose checkpoints by, where none says how many are held out.
_SET_ASIDE = 0.1


@dataclass(frozen=True)
class Dataset:
    """Rows to train on, and the loss for them."""

    name: str
    rows: TrainingData
    loss: str
    loss_arguments: Mapping[str, Any]


@dataclass(frozen=True)
class RunData:
    """The data sets of a run, the first of them measured on `task`; facts in the same order. `general` is what the
    model should not forget, `choice` what the best checkpoint is chosen by: neither trained on nor reported."""

    datasets: tuple[Dataset, ...]
    task: Task | None
    choice: Task | None
    general: Task | None
    facts: tuple[DataFacts, ...]


def read_run_data(
    config: TrainingConfig, task: Task | None = None, *, model_type: str = "SentenceTransformer"
) -> RunData:
    """Read all data of `config`; `task` is measured in place of test or held-out rows. Raises UnusableInput."""
    first = _first(config)
    data = _read(config, first)
    loss = _loss(config, first, data, model_type)
    check_minable(data, config.mining)
    parts, rows, found, measured_on = _apart(config, data)
    rows, choice, to_choose_by = _set_aside(config, rows)
    near = _near(rows, found)
    facts = replace(
        _facts(data, parts, loss, config, measured_on, near), training_rows=len(rows), validation_rows=to_choose_by
    )
    main = Dataset("data", rows, loss, first.loss_arguments)
    numbered = enumerate(config.more_data, start=2)
    further = [_further(config, settings, number, model_type) for number, settings in numbered]
    return RunData(
        datasets=(main, *(dataset for dataset, _ in further)),
        task=task or _task(config, data, parts, found),
        choice=choice,
        general=_general(config, model_type),
        facts=(facts, *(more for _, more in further)),
    )


def training_rows(config: TrainingConfig) -> int:
    """Rows that `config` trains on. Raises UnusableInput."""
    more = [_read(config, settings) for settings in config.more_data]
    return len(_apart(config, _read(config, _first(config)))[1]) + sum(map(len, more))


def _first(config: TrainingConfig) -> DatasetSettings:
    """The settings of the first data set, which a config has at its top."""
    return DatasetSettings(**{entry.name: getattr(config, entry.name) for entry in fields(DatasetSettings)})


def _read(config: TrainingConfig, settings: DatasetSettings) -> TrainingData:
    return read_training_data(
        settings.data,
        columns=settings.columns,
        subset=settings.subset,
        split=settings.split,
        max_pairs=settings.max_pairs,
        seed=config.seed,
        skip_bad_rows=config.skip_bad_rows,
    )


def _loss(config: TrainingConfig, settings: DatasetSettings, data: TrainingData, model_type: str) -> str:
    cached = isinstance(config.mini_batch_size, int)
    loss = loss_name(data.kind, settings.loss, cached=cached, model_type=model_type)
    check_loss_rows(loss, data.columns)
    return loss


def _further(
    config: TrainingConfig, settings: DatasetSettings, number: int, model_type: str
) -> tuple[Dataset, DataFacts]:
    """A further data set is trained on whole."""
    data = _read(config, settings)
    loss = _loss(config, settings, data, model_type)
    facts = _facts(data, _whole(data), loss, config, "", ())
    return Dataset(f"data{number}", data, loss, settings.loss_arguments), facts


def _whole(data: TrainingData) -> Split:
    return Split(tuple(range(len(data))), ())


def _apart(config: TrainingConfig, data: TrainingData) -> tuple[Split, TrainingData, TrainingData | None, str]:
    """The split, the rows to train on, those to measure on, and where the latter are from unless held out."""
    beir = _measured_split(config)
    if beir is not None:
        return _whole(data), data, None, f"the split {beir} of {Path(config.data).name}"
    if config.test is None:
        parts = split(data, share=config.holdout, seed=config.seed)
        return parts, data.take(parts.train), data.take(parts.held_out), ""
    test = _read(config, DatasetSettings(config.test, config.columns, config.subset, "test"))
    if test.kind != data.kind:
        raise UnusableInput(f"{config.test} holds {test.kind}, {config.data} holds {data.kind}; expected the same.")
    return _whole(data), data, test, f"{len(test):,} rows of {test.path.name}"


def _set_aside(config: TrainingConfig, rows: TrainingData) -> tuple[TrainingData, Task | None, int]:
    """Rows to train on without those that the best checkpoint is chosen by, and the latter as a task and their number.

    A figure that checkpoints were chosen by looks too good: the rows that are reported must be others.
    """
    if not config.checkpoints.best:
        return rows, None, 0
    parts = split(rows, share=config.holdout or _SET_ASIDE, seed=config.seed + 1)
    # Among the texts of these rows alone: no held-out one has a part in the choice.
    choice = held_out_task(rows, parts.held_out, seed=config.seed)
    if choice is None:
        raise UnusableInput(
            f"--checkpoints.best needs rows to choose by, and {len(rows):,} rows to train on are too few for that.",
            hint="Leave it out, or name more data.",
        )
    return rows.take(parts.train), choice, len(parts.held_out)


def _measured_split(config: TrainingConfig) -> str | None:
    """The split of a BEIR directory that is not trained on and says which documents are right."""
    path = expanded(config.data)
    if config.test is not None or not is_beir(path):
        return None
    return next((name for name in ("test", "dev") if name in judged_splits(path) and name != config.split), None)


def _task(config: TrainingConfig, data: TrainingData, parts: Split, test: TrainingData | None) -> Task | None:
    beir = _measured_split(config)
    if beir is not None:
        return task_of_beir(expanded(config.data), beir, seed=config.seed)
    if config.test is None or test is None:
        return held_out_task(data, parts.held_out, seed=config.seed)
    # As if both were one: the answers of the training rows are among those to be told apart.
    both = replace(
        data,
        columns={role: [*values, *test.columns[role]] for role, values in data.columns.items() if role in test.columns},
        groups=None,
        lines=(),
    )
    return held_out_task(both, range(len(data), len(both)), seed=config.seed)


def _general(config: TrainingConfig, model_type: str) -> Task | None:
    # (The others have no similarity of two texts that they were made for.)
    if config.general == "none" or model_type not in ("SentenceTransformer", "SparseEncoder"):
        return None
    if config.general == "auto":
        return general_task()
    data = _read(config, DatasetSettings(config.general, split="test"))
    if data.kind != "scored pairs":
        raise UnusableInput(f"--general {config.general} holds {data.kind}; expected pairs of texts with a score.")
    return held_out_task(data, range(len(data)))


def _near(rows: TrainingData, found: TrainingData | None) -> tuple[str, ...]:
    """Where rows to measure on resemble rows to train on, in words."""
    if found is None or not len(found):
        return ()
    # Of a pair the query alone: that many queries have the same answer is no leak.
    role = next(iter(rows.columns))
    return tuple(
        f"{found.unit} {found.lines[near.test]} resembles {rows.unit} {rows.lines[near.train]}, "
        f"which is trained on ({100 * near.similarity:.0f} %)"
        for near in near_duplicates(rows.columns[role], found.columns[role])
    )


def _facts(
    data: TrainingData,
    parts: Split,
    loss: str,
    config: TrainingConfig,
    measured_on: str,
    near: tuple[str, ...],
) -> DataFacts:
    return DataFacts(
        path=data.path,
        kind=data.kind,
        roles=data.roles,
        by_position=data.by_position,
        ignored=data.ignored,
        training_rows=len(parts.train),
        held_out_rows=len(parts.held_out),
        measured_on=measured_on,
        apart=parts.apart,
        loss=loss,
        matryoshka=config.matryoshka,
        near_duplicates=near,
        notes=data.notes,
    )
