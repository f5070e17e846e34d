"""What is asked of a run: settings, output and data, checked and read before any library or model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.hub import expanded
from ingraft.layout import read_layout
from ingraft.publish import check_output
from ingraft.training.batches import check_parts
from ingraft.training.checkpoints import run_folder
from ingraft.training.config import TrainingConfig, check_settings
from ingraft.training.defaults import decided, undecided
from ingraft.training.facts import Chosen, Observer
from ingraft.training.model import base_directory
from ingraft.training.model_types import choose_model_type
from ingraft.training.processes import Processes, rows_for_each
from ingraft.training.record import data_hashes
from ingraft.training.run_data import RunData, read_run_data, training_rows
from ingraft.training.save import ADAPTER_CONFIG
from ingraft.training.sources import check_source
from ingraft.training.tasks import Task
from ingraft.training.trackers import check_trackers, logs_folder


@dataclass(frozen=True)
class Job:
    """A run that can begin. Of `config` nothing is left to choose but how it fits into memory.

    root, base_name  the base's directory, and the name that the adapter keeps of it
    files            name → hash of the data that are on this disk, before they were read
    chosen           what was taken for settings that were left to choose
    """

    config: TrainingConfig
    processes: Processes
    root: Path
    base_name: str
    model_type: str
    files: Mapping[str, str]
    data: RunData
    chosen: Chosen | None


def open_job(config: TrainingConfig, task: Task | None, processes: Processes, tell: Observer) -> Job:
    """Check everything, read the data, and choose. `task` is measured in place of test or held-out rows.

    Raises UnusableInput.
    """
    check_settings(config)
    rows = rows_for_each(config.batch_size, processes)
    check_trackers(config.report_to)
    for name in config.data_names:
        check_source(name)
    root, base_name = base_directory(config)
    _check_outputs(config, root)
    model_type = choose_model_type(config, root)
    files = data_hashes(config)
    data = read_run_data(config, task, model_type=model_type)
    for facts in data.facts:
        tell(facts)
    config, chosen = _decided(config, root, sum(len(dataset.rows) for dataset in data.datasets))
    check_parts(data.datasets, rows, processes.count)
    return Job(config, processes, root, base_name, model_type, files, data, chosen)


def settled(config: TrainingConfig) -> TrainingConfig:
    """`config` with what a run would take for `auto`, as far as base and data are on this disk and need no download."""
    if not undecided(config) or not all(expanded(name).exists() for name in (config.model, *config.data_names)):
        return config
    root, _ = base_directory(config)
    return _decided(config, root, training_rows(config))[0]


def _decided(config: TrainingConfig, root: Path, rows: int) -> tuple[TrainingConfig, Chosen | None]:
    if not undecided(config):
        return config, None
    return decided(config, parameters=open_checkpoint(read_layout(root).transformer_folder).elements, rows=rows)


def _check_outputs(config: TrainingConfig, base: Path) -> None:
    """The outputs are free, or an earlier adapter and merge that may be replaced; and no input lies in them."""
    local = (path for name in config.data_names if (path := expanded(name)).exists())
    inputs = (base, *local)
    check_output(config.output, overwrite=config.overwrite, inputs=inputs)
    if config.output.is_dir() and any(config.output.iterdir()) and not (config.output / ADAPTER_CONFIG).is_file():
        raise UnusableInput(
            f"{config.output} is not empty and holds no adapter, so it is not replaced.",
            hint="Name another --output.",
        )
    if config.merge is not None:
        of_run = (config.output, run_folder(config.output), logs_folder(config.output))
        check_output(config.merge, overwrite=config.overwrite, inputs=(*inputs, *of_run))
