"""The memory plan of a run: chosen for what was found, the stopped run's where one is resumed, and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ingraft.errors import UnusableInput
from ingraft.files import read_json_object, to_json
from ingraft.training.checkpoints import Run
from ingraft.training.config import TrainingConfig
from ingraft.training.keys import plain
from ingraft.training.memory import Asked, Device, Footprint, MemoryPlan, choose
from ingraft.training.processes import Processes
from ingraft.training.run_data import Dataset

MEMORY_FILE = "memory.json"


@dataclass(frozen=True)
class Planned:
    """The plan, and what it makes of the settings and of the losses of the data sets."""

    memory: MemoryPlan
    config: TrainingConfig
    datasets: tuple[Dataset, ...]


def plan_memory(
    config: TrainingConfig,
    datasets: Sequence[Dataset],
    need: Footprint,
    device: Device,
    *,
    run: Run | None,
    processes: Processes,
) -> Planned:
    """How to train `datasets` on `device`; kept beside the checkpoints of `run`, for when that is resumed."""
    memory = kept_plan(run.folder) if run and config.resume else None
    memory = memory or choose(device, need, _asked_for(config))
    if run and processes.writes:
        _keep_plan(run.folder, memory)
    return Planned(memory, _with_plan(config, memory), _with_losses(datasets, need, memory))


def kept_plan(folder: Path) -> MemoryPlan | None:
    """The plan of the stopped run in `folder`; None where it got no further."""
    file = folder / MEMORY_FILE
    if not file.is_file():
        return None
    values = read_json_object(file)
    try:
        return MemoryPlan(**(values | {"tokens": tuple(map(tuple, values["tokens"]))}))
    except (KeyError, TypeError):
        raise UnusableInput(
            f"{file} is not the memory plan of a run, or that of another version of ingraft.",
            hint="Begin anew with --overwrite.",
        ) from None


def _keep_plan(folder: Path, plan: MemoryPlan) -> None:
    """Write the plan where a resumed run will find it: computed in another way, its figures would be others."""
    (folder / MEMORY_FILE).write_text(to_json(plain(plan)), encoding="utf-8")


def _asked_for(config: TrainingConfig) -> Asked:
    size = config.mini_batch_size
    return Asked(
        bf16=None if config.bf16 == "auto" else config.bf16,
        gradient_checkpointing=None if config.gradient_checkpointing == "auto" else config.gradient_checkpointing,
        mini_batch_size=None if size == "auto" else 0 if size == "none" else size,
    )


def _with_plan(config: TrainingConfig, plan: MemoryPlan) -> TrainingConfig:
    """`config` with what was chosen in place of `auto`."""
    return replace(
        config,
        bf16=plan.bf16,
        gradient_checkpointing=plan.gradient_checkpointing,
        mini_batch_size=plan.mini_batch_size or "none",
    )


def _with_losses(datasets: Sequence[Dataset], need: Footprint, plan: MemoryPlan) -> tuple[Dataset, ...]:
    """The data sets, with the cached forms of their losses where rows are embedded a few at a time."""
    if plan.mini_batch_size is None:
        return tuple(datasets)
    return tuple(
        replace(dataset, loss=lengths.cached) if lengths.cached else dataset
        for dataset, lengths in zip(datasets, need.data, strict=True)
    )
