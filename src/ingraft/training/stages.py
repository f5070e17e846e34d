"""The stages of a run that need the model: load → measure → adapt → plan memory → train → measure → save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.training.checkpoints import Run, clear_run, open_run, run_folder
from ingraft.training.convert import initial_matrices
from ingraft.training.evaluation import Metrics, evaluate
from ingraft.training.facts import (
    AdapterFacts,
    Evaluated,
    Evaluating,
    Mined,
    Mining,
    ModelFacts,
    Quantised,
    Restored,
    Resumed,
)
from ingraft.training.fit import Fit, fit, step_count
from ingraft.training.job import Job
from ingraft.training.journal import Journal
from ingraft.training.memory import Device
from ingraft.training.memory_facts import footprint, this_device
from ingraft.training.memory_plan import Planned, plan_memory
from ingraft.training.methods import TrainedMethod, choose_method
from ingraft.training.mining import mined
from ingraft.training.model import add_adapter, load_base, model_facts, prompts_for, set_prompts, transformer_of
from ingraft.training.quantised import check_quantisation, loading_arguments, prepare_quantised, say_in_card
from ingraft.training.quiet import import_libraries
from ingraft.training.run_data import Dataset
from ingraft.training.save import ADAPTER_WEIGHTS, forget_figures, keep_card_private, save_adapter
from ingraft.training.tasks import Task
from ingraft.training.trackers import Trackers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor


@dataclass(frozen=True)
class Loaded:
    """The base in memory, and what there was free of that before. `run` is where checkpoints go, if there are any."""

    model: SentenceTransformer
    facts: ModelFacts
    quantised: Quantised | None
    device: Device
    run: Run | None


@dataclass(frozen=True)
class Adapted:
    """The adapter is in the model. `prompts` are by data set and role; `initial` is what a method to be converted
    began with."""

    method: TrainedMethod
    facts: AdapterFacts
    datasets: tuple[Dataset, ...]
    prompts: Mapping[str, Mapping[str, str]]
    initial: Mapping[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """Figures of one model on the task and on what it should not forget; empty where there is nothing to measure."""

    on_task: Metrics
    in_general: Metrics

    @property
    def together(self) -> Metrics:
        return {**self.on_task, **{f"general_{name}": value for name, value in self.in_general.items()}}


def import_for(job: Job, journal: Journal) -> TrainedMethod:
    """Import the libraries, and find the method, which PEFT knows about."""
    with journal.timed("import"):
        import_libraries()
        method = choose_method(job.config)
        check_quantisation(job.config, method, job.root, job.model_type, job.processes)
    return method


def load(job: Job, journal: Journal) -> Loaded:
    from transformers import set_seed

    set_seed(job.config.seed)  # a head that the base lacks begins at random
    device = this_device(job.processes)
    with journal.timed("load"):
        model = load_base(job.config, job.root, job.model_type, loading_arguments(job.config))
        quantised = prepare_quantised(model, job.config)
    facts = model_facts(model, job.config.model, job.root)
    for found in (facts, quantised, job.chosen):
        if found:
            journal.tell(found)
    return Loaded(model, facts, quantised, device, _open_run(job, facts.fingerprint))


def measure(which: str, job: Job, model: SentenceTransformer, journal: Journal) -> Measured:
    """Measure `model`, which is the `base` or the `adapted` one."""
    return Measured(
        _measure(which, model, job.data.task, journal),
        _measure(f"{which}, in general", model, job.data.general, journal),
    )


def adapt(job: Job, method: TrainedMethod, base: Loaded, journal: Journal) -> Adapted:
    """Mine what is to be mined with the base, then put a fresh adapter into it."""
    from transformers import set_seed

    config, model, datasets = job.config, base.model, job.data.datasets
    set_prompts(model, config.prompts)
    if config.mining.negatives:
        datasets = (_mine(job, model, datasets[0], journal), *datasets[1:])
    prompts = {dataset.name: prompts_for(model, dataset.rows) for dataset in datasets}
    set_seed(config.seed)
    facts = add_adapter(model, method, config, (job.root, job.base_name), prompts[datasets[0].name])
    initial = initial_matrices(transformer_of(model), config.adapter_name) if method.converted else {}
    journal.tell(facts)
    return Adapted(method, facts, datasets, prompts, initial)


def plan(job: Job, base: Loaded, adapted: Adapted, journal: Journal) -> Planned:
    need = footprint(base.model, adapted.datasets, adapted.prompts, job.config, job.processes, base.device)
    planned = plan_memory(job.config, adapted.datasets, need, base.device, run=base.run, processes=job.processes)
    journal.tell(planned.memory)
    return planned


def train_adapter(
    job: Job,
    base: Loaded,
    adapted: Adapted,
    planned: Planned,
    journal: Journal,
    *,
    trackers: Trackers | None,
    before: Measured,
) -> Fit:
    """Train, in place; the model is then what it was at its last step, or at the best checkpoint."""
    if base.run and base.run.resume_from:
        journal.tell(Resumed(base.run.resume_from))
    keep_card_private(base.model, job.base_name)
    with journal.timed("train"):
        fitted = fit(
            base.model,
            planned.datasets,
            planned.config,
            adapted.prompts,
            journal.tell,
            run=base.run,
            measure=partial(evaluate, base.model, job.data.choice) if job.data.choice else None,
            processes=job.processes,
            follow=partial(trackers.follow, before=before.together) if trackers else None,
        )
    if fitted.best:
        journal.tell(Restored(fitted.best.step, fitted.best.metric, fitted.best.value))
    forget_figures(base.model)
    return fitted


def save(job: Job, base: Loaded, adapted: Adapted, folder: Path, journal: Journal) -> int:
    """Save the adapter into `folder` and return the bytes of its weights; 0 in a process that does not write."""
    if not job.processes.writes:
        return 0
    trusted = job.config.trust_remote_code
    with journal.timed("save"):
        save_adapter(base.model, folder, adapted.method, job.root, adapted.initial, trust_remote_code=trusted)
        if base.quantised:
            say_in_card(base.model, folder)
    return (folder / ADAPTER_WEIGHTS).stat().st_size


def _open_run(job: Job, fingerprint: str) -> Run | None:
    """Where checkpoints go, for a run that is long enough to have any."""
    config, writes = job.config, job.processes.writes
    every = config.checkpoints.every
    wanted = every and (step_count(job.data.datasets, config) > every or config.checkpoints.best)
    if not wanted and not config.resume:
        if writes:
            clear_run(config)
        return None
    if not config.resume and not writes:
        return Run(run_folder(config.output))  # which the first process makes
    return open_run(config, files=job.files, fingerprint=fingerprint)


def _measure(which: str, model: SentenceTransformer, task: Task | None, journal: Journal) -> Metrics:
    if task is None:
        return {}
    journal.tell(Evaluating(which))
    with journal.timed(f"evaluate {which}"):
        metrics = evaluate(model, task)
    journal.tell(Evaluated(which, metrics, journal.seconds[f"evaluate {which}"]))
    return metrics


def _mine(job: Job, model: SentenceTransformer, dataset: Dataset, journal: Journal) -> Dataset:
    journal.tell(Mining())
    with journal.timed("mine"):
        rows = mined(model, dataset.rows, job.config.mining, seed=job.config.seed)
    journal.tell(Mined(len(rows), rows.notes[-1], journal.seconds["mine"]))
    return replace(dataset, rows=rows)
