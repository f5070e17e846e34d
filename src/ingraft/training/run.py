"""The visible pipeline of `ingraft train`: job → load → measure → adapt → plan memory → train → measure → save."""

from __future__ import annotations

import shutil
from dataclasses import replace

from ingraft.training import stages
from ingraft.training.config import TrainingConfig
from ingraft.training.facts import DataFacts, Observer, TrainingResult
from ingraft.training.job import Job, open_job
from ingraft.training.journal import Journal, unobserved
from ingraft.training.memory_plan import Planned
from ingraft.training.processes import these_processes
from ingraft.training.quiet import quiet_libraries
from ingraft.training.record import write_record
from ingraft.training.tasks import Task
from ingraft.training.trackers import logs_folder, open_trackers


def train(config: TrainingConfig, *, task: Task | None = None, observe: Observer | None = None) -> TrainingResult:
    """Train an adapter on rows and publish it at `config.output`, or leave nothing there.

    `task` is measured before and after instead of held-out rows; set `config.holdout` to 0 with it, unless rows
    are to be left out all the same. `observe` is told what is found out, stage by stage. Checkpoints of a run that is
    stopped stay beside the output. Raises UnusableInput or CheckFailed.
    """
    processes = these_processes()
    journal = Journal(observe if observe and processes.writes else unobserved)
    job = open_job(config, task, processes, journal.tell)
    config = job.config
    # Opened before the long work, not after an hour of training, in case the output cannot be written.
    with processes.output(config.output, overwrite=config.overwrite) as folder:
        method = stages.import_for(job, journal)
        named = config.report_to if processes.writes else ()
        with quiet_libraries(), open_trackers(named, config.output, resume=config.resume) as trackers:
            base = stages.load(job, journal)
            before = stages.measure("base", job, base.model, journal)
            adapted = stages.adapt(job, method, base, journal)
            planned = stages.plan(job, base, adapted, journal)
            fitted = stages.train_adapter(job, base, adapted, planned, journal, trackers=trackers, before=before)
            after = stages.measure("adapted", job, base.model, journal)
            if trackers:
                trackers.send(after.together)
            adapter_bytes = stages.save(job, base, adapted, folder, journal)
        first, *more = _data_facts(job, planned)
        result = TrainingResult(
            output=config.output,
            data=first,
            more_data=tuple(more),
            model=base.facts,
            adapter=adapted.facts,
            memory=planned.memory,
            steps=fitted.steps,
            course=fitted.course,
            before=before.on_task,
            after=after.on_task,
            general_before=before.in_general,
            general_after=after.in_general,
            adapter_bytes=adapter_bytes,
            logs=logs_folder(config.output) if "tensorboard" in config.report_to else None,
            seconds=journal.seconds,
        )
        if processes.writes:
            write_record(folder, config, result, files=job.files, quantised=base.quantised, best=fitted.best)
    if base.run and processes.writes:
        shutil.rmtree(base.run.folder, ignore_errors=True)
    return result


def _data_facts(job: Job, planned: Planned) -> list[DataFacts]:
    """The facts of the data sets, each with the loss that it was trained with."""
    return [replace(facts, loss=dataset.loss) for facts, dataset in zip(job.data.facts, planned.datasets, strict=True)]
