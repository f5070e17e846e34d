"""The visible pipeline of `ingraft train`: read → split → load → measure → train → measure → save."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.hub import expanded
from ingraft.layout import read_layout
from ingraft.publish import check_output
from ingraft.training.batches import check_parts
from ingraft.training.checkpoints import Run, clear_run, open_run, run_folder
from ingraft.training.config import TrainingConfig, check_settings
from ingraft.training.convert import initial_matrices
from ingraft.training.defaults import decided, undecided
from ingraft.training.evaluation import Metrics, evaluate
from ingraft.training.facts import (
    Chosen,
    Evaluated,
    Evaluating,
    Event,
    Mined,
    Mining,
    ModelFacts,
    Observer,
    Restored,
    Resumed,
    TrainingResult,
)
from ingraft.training.fit import fit, step_count
from ingraft.training.memory import choose
from ingraft.training.memory_facts import (
    asked_for,
    footprint,
    keep_plan,
    kept_plan,
    planned,
    this_device,
    with_losses,
)
from ingraft.training.methods import choose_method
from ingraft.training.mining import mined
from ingraft.training.model import (
    add_adapter,
    base_directory,
    load_base,
    model_facts,
    prompts_for,
    set_prompts,
    transformer_of,
)
from ingraft.training.model_types import choose_model_type
from ingraft.training.prepare import Dataset, prepare, training_rows
from ingraft.training.processes import Processes, rows_for_each, these_processes
from ingraft.training.quantised import check_quantisation, loading_arguments, prepare_quantised, say_in_card
from ingraft.training.quiet import import_libraries, quiet_libraries
from ingraft.training.record import data_hashes, write_record
from ingraft.training.save import ADAPTER_CONFIG, ADAPTER_WEIGHTS, forget_figures, keep_card_private, save_adapter
from ingraft.training.sources import check_source
from ingraft.training.tasks import Task
from ingraft.training.trackers import check_trackers, logs_folder, open_trackers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train(config: TrainingConfig, *, task: Task | None = None, observe: Observer | None = None) -> TrainingResult:
    """Train an adapter on rows and publish it at `config.output`, or leave nothing there.

    `task` is measured before and after instead of held-out rows; set `config.holdout` to 0 with it, unless rows
    are to be left out all the same. `observe` is told what is found out, stage by stage. Checkpoints of a run that is
    stopped stay beside the output. Raises UnusableInput or CheckFailed.
    """
    processes = these_processes()
    stages = Stages(observe if observe and processes.writes else _unobserved)
    check_settings(config)
    rows_for_each(config.batch_size, processes)
    check_trackers(config.report_to)
    for name in (config.data, config.test, *(more.data for more in config.more_data)):
        if name is not None:
            check_source(name)
    root, base_name = base_directory(config)
    _check_output(config, root)
    model_type = choose_model_type(config, root)
    prepared = prepare(config, task, model_type=model_type)
    for facts in prepared.facts:
        stages.tell(facts)
    datasets, task = prepared.datasets, prepared.task
    config, chosen = _decided(config, root, sum(len(dataset.rows) for dataset in datasets))
    check_parts(datasets, rows_for_each(config.batch_size, processes), processes.count)

    # Opened before the long work, not after an hour of training, in case the output cannot be written.
    with processes.output(config.output, overwrite=config.overwrite) as folder:
        with stages.timed("import"):
            import_libraries()
            method = choose_method(config)
            check_quantisation(config, method, root, model_type, processes)
        named = config.report_to if processes.writes else ()
        with quiet_libraries(), open_trackers(named, config.output, resume=config.resume) as trackers:
            from transformers import set_seed

            set_seed(config.seed)  # a head that the base lacks begins at random
            device = this_device(processes)
            with stages.timed("load"):
                model = load_base(config, root, model_type, loading_arguments(config))
                quantised = prepare_quantised(model, config)
            base = model_facts(model, config.model, root)
            stages.tell(base)
            if quantised:
                stages.tell(quantised)
            if chosen:
                stages.tell(chosen)
            run = _open_run(config, datasets, base, processes)
            before = _measure("base", model, task, stages)
            general_before = _measure("base, in general", model, prepared.general, stages)
            set_prompts(model, config.prompts)
            if config.mining.negatives:
                datasets = (_mine(model, datasets[0], config, stages), *datasets[1:])
            prompts = {dataset.name: prompts_for(model, dataset.rows) for dataset in datasets}
            set_seed(config.seed)
            adapter = add_adapter(model, method, config, (root, base_name), prompts[datasets[0].name])
            initial = initial_matrices(transformer_of(model), config.adapter_name) if method.converted else {}
            stages.tell(adapter)
            need = footprint(model, datasets, prompts, config, processes, device)
            memory = kept_plan(run.folder) if run and config.resume else None
            memory = memory or choose(device, need, asked_for(config))
            stages.tell(memory)
            datasets = with_losses(datasets, need, memory)
            if run and processes.writes:
                keep_plan(run.folder, memory)
            if run and run.resume_from:
                stages.tell(Resumed(run.resume_from))
            keep_card_private(model, base_name)
            with stages.timed("train"):
                fitted = fit(
                    model,
                    datasets,
                    planned(config, memory),
                    prompts,
                    stages.tell,
                    run=run,
                    measure=partial(evaluate, model, prepared.choice) if prepared.choice else None,
                    processes=processes,
                    follow=partial(trackers.follow, before=_all(before, general_before)) if trackers else None,
                )
            if fitted.best:
                stages.tell(Restored(fitted.best.step, fitted.best.metric, fitted.best.value))
            forget_figures(model)
            after = _measure("adapted", model, task, stages)
            general_after = _measure("adapted, in general", model, prepared.general, stages)
            if trackers:
                trackers.send(_all(after, general_after))
            if processes.writes:
                with stages.timed("save"):
                    save_adapter(model, folder, method, root, initial, trust_remote_code=config.trust_remote_code)
                    if quantised:
                        say_in_card(model, folder)
        data = tuple(replace(facts, loss=dataset.loss) for facts, dataset in zip(prepared.facts, datasets, strict=True))
        figures = {
            "before": before,
            "after": after,
            "general_before": general_before,
            "general_after": general_after,
            "steps": fitted.steps,
            "course": fitted.course,
            "best": fitted.best,
            "seconds": stages.seconds,
        }
        adapter_bytes = 0
        if processes.writes:
            found = {"data": data, "base": base, "quantised": quantised, "adapter": adapter, "memory": memory}
            write_record(folder, config, found, **figures)
            adapter_bytes = (folder / ADAPTER_WEIGHTS).stat().st_size
    if run and processes.writes:
        shutil.rmtree(run.folder, ignore_errors=True)
    return TrainingResult(
        output=config.output,
        data=data[0],
        more_data=data[1:],
        model=base,
        adapter=adapter,
        memory=memory,
        steps=fitted.steps,
        course=fitted.course,
        before=before,
        after=after,
        general_before=general_before,
        general_after=general_after,
        adapter_bytes=adapter_bytes,
        logs=logs_folder(config.output) if "tensorboard" in config.report_to else None,
        seconds=stages.seconds,
    )


def settled(config: TrainingConfig) -> TrainingConfig:
    """`config` with what a run would take for `auto`, as far as base and data are on this disk and need no download."""
    if not undecided(config) or not all(expanded(name).exists() for name in _needed(config)):
        return config
    root, _ = base_directory(config)
    return _decided(config, root, training_rows(config))[0]


def _needed(config: TrainingConfig) -> Iterator[str]:
    yield from (config.model, config.data, *(more.data for more in config.more_data))
    if config.test is not None:
        yield config.test


def _decided(config: TrainingConfig, root: Path, rows: int) -> tuple[TrainingConfig, Chosen | None]:
    if not undecided(config):
        return config, None
    return decided(config, parameters=open_checkpoint(read_layout(root).transformer_folder).elements, rows=rows)


@dataclass(frozen=True)
class Stages:
    """Whom to tell what is found out, and how long each stage took."""

    tell: Observer
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 2)


def _open_run(
    config: TrainingConfig, datasets: Sequence[Dataset], base: ModelFacts, processes: Processes
) -> Run | None:
    """Where checkpoints go, for a run that is long enough to have any."""
    every = config.checkpoints.every
    wanted = every and (step_count(datasets, config) > every or config.checkpoints.best)
    if not wanted and not config.resume:
        if processes.writes:
            clear_run(config)
        return None
    if not config.resume and not processes.writes:
        return Run(run_folder(config.output))  # which the first process makes
    return open_run(config, files=data_hashes(config), fingerprint=base.fingerprint)


def _check_output(config: TrainingConfig, base: Path) -> None:
    """The output is free, or an earlier adapter that may be replaced; and no input lies in it."""
    check_output(config.output, overwrite=config.overwrite, inputs=(base, *_local_inputs(config)))
    if config.output.is_dir() and any(config.output.iterdir()) and not (config.output / ADAPTER_CONFIG).is_file():
        raise UnusableInput(
            f"{config.output} is not empty and holds no adapter, so it is not replaced.",
            hint="Name another --output.",
        )


def _local_inputs(config: TrainingConfig) -> list[Path]:
    names = [config.data, config.test, config.general, *(more.data for more in config.more_data)]
    paths = [expanded(name) for name in names if name is not None]
    return [path for path in paths if path.exists()]


def _mine(model: SentenceTransformer, dataset: Dataset, config: TrainingConfig, stages: Stages) -> Dataset:
    stages.tell(Mining())
    with stages.timed("mine"):
        rows = mined(model, dataset.rows, config.mining, seed=config.seed)
    stages.tell(Mined(len(rows), rows.notes[-1], stages.seconds["mine"]))
    return replace(dataset, rows=rows)


def _measure(which: str, model: SentenceTransformer, task: Task | None, stages: Stages) -> Metrics:
    if task is None:
        return {}
    stages.tell(Evaluating(which))
    with stages.timed(f"evaluate {which}"):
        metrics = evaluate(model, task)
    stages.tell(Evaluated(which, metrics, stages.seconds[f"evaluate {which}"]))
    return metrics


def _all(on_task: Metrics, in_general: Metrics) -> Metrics:
    return {**on_task, **{f"general_{name}": value for name, value in in_general.items()}}


def _unobserved(event: Event) -> None:
    pass
