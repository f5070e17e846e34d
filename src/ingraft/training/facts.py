"""What a training run finds out, stage by stage: told to an observer at once, and kept in the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ingraft.training.memory import MemoryPlan


@dataclass(frozen=True)
class DataFacts:
    """A data set: what its columns are taken as, and how many rows are trained on and held out.

    measured_on      where the rows to measure on are from, when none are held out
    validation_rows  rows that the best checkpoint is chosen by, and nothing else
    apart            no text of a held-out row occurs in a training row
    near_duplicates  rows to measure on that resemble rows to train on, in words
    """

    path: Path
    kind: str
    roles: Mapping[str, str]
    by_position: tuple[str, ...]
    ignored: tuple[str, ...]
    training_rows: int
    held_out_rows: int
    measured_on: str
    apart: bool
    loss: str
    matryoshka: tuple[int, ...]
    near_duplicates: tuple[str, ...]
    notes: tuple[str, ...]
    validation_rows: int = 0


@dataclass(frozen=True)
class Mining:
    """The base model looks for hard negatives."""


@dataclass(frozen=True)
class Mined:
    """Hard negatives were found; `rows` are left to train on, `note` says the rest."""

    rows: int
    note: str
    seconds: float


@dataclass(frozen=True)
class ModelFacts:
    """The base model: parameters of all its modules, their bytes in memory, the dtype of most of them, and the
    fingerprint of its transformer's weights."""

    name: str
    architecture: str
    parameters: int
    nbytes: int
    dtype: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Quantised:
    """The base was loaded packed: how many of its layers, the dtype they compute in, the weights that a merge takes."""

    kind: str
    layers: int
    compute: str
    merged_into: str


@dataclass(frozen=True)
class Chosen:
    """What was taken for settings that were left to choose, and why, in words."""

    words: tuple[str, ...]


@dataclass(frozen=True)
class AdapterFacts:
    """The adapter and the layers it sits in; `trainable` of `parameters` are trained, other modules' among them.

    settings      what the method was told: for LoRA r, α and the scale that they make
    heads         modules of the transformer that are trained whole, because the base lacks them or they were named
    also_trained  modules around the transformer (such as Dense) that are trained whole and saved beside the adapter
    prompts       what is a text taken as → the model's prompt that goes before it
    """

    method: str
    settings: Mapping[str, float | str]
    target_modules: tuple[str, ...]
    excluded_modules: tuple[str, ...]
    modules: tuple[str, ...]
    trainable: int
    parameters: int
    heads: tuple[str, ...]
    also_trained: tuple[str, ...]
    prompts: Mapping[str, str]


@dataclass(frozen=True)
class Evaluating:
    """An evaluation begins: of the `base` model or the `adapted` one."""

    model: str


@dataclass(frozen=True)
class Evaluated:
    model: str
    metrics: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Resumed:
    """A stopped run goes on from a checkpoint."""

    checkpoint: Path


@dataclass(frozen=True)
class Restored:
    """The best checkpoint was loaded again and measured again."""

    step: int
    metric: str
    value: float


@dataclass(frozen=True)
class Step:
    """Step `done` of `total` was taken; `loss` is the last that was logged, None before there is one."""

    done: int
    total: int
    loss: float | None


@dataclass(frozen=True)
class Course:
    """What was logged on the way, at `steps`: the mean loss since the last of them, and the learning rate there.

    measured  step of a checkpoint → what was measured there, for `checkpoints.best`
    """

    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    measured: Mapping[int, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. `before` and `after` are empty when nothing was held out, `general_…` when that was not wanted;
    `logs` is where TensorBoard's files are; `seconds` are by stage."""

    output: Path
    data: DataFacts
    more_data: tuple[DataFacts, ...]
    model: ModelFacts
    adapter: AdapterFacts
    memory: MemoryPlan
    steps: int
    course: Course
    before: Mapping[str, float]
    after: Mapping[str, float]
    general_before: Mapping[str, float]
    general_after: Mapping[str, float]
    adapter_bytes: int
    logs: Path | None
    seconds: Mapping[str, float]

    @property
    def losses(self) -> tuple[float, ...]:
        return self.course.losses

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


Event: TypeAlias = (
    DataFacts | Mining | Mined | ModelFacts | Chosen | AdapterFacts | MemoryPlan | Evaluating | Evaluated | Resumed
    | Restored | Quantised | Step
)  # fmt: skip
Observer: TypeAlias = Callable[[Event], None]
