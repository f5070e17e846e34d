"""The training itself, by SentenceTransformerTrainer, reduced to what happens in it: steps and losses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.training.batches import samplers
from ingraft.training.callbacks import before_saving, evaluator, report_steps
from ingraft.training.checkpoints import Run, check_room, load_checkpoint, save_checkpoint
from ingraft.training.config import TrainingConfig
from ingraft.training.facts import Course, Step
from ingraft.training.losses import make_loss
from ingraft.training.processes import Processes, rows_for_each
from ingraft.training.run_data import Dataset
from ingraft.training.trackers import PROJECT

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LOGGED_STEPS = 100
# The same weights on the same machine: a rank may change where two similarities are equal but for rounding.
_REPEATED = 1e-4
# What the trainer says of an evaluation besides its metrics.
_TIMES = ("runtime", "samples_per_second", "steps_per_second", "loss")


@dataclass(frozen=True)
class Best:
    """The checkpoint that measured best: its step, and what was measured."""

    step: int
    metric: str
    value: float


@dataclass(frozen=True)
class Fit:
    """Steps that were taken, and what was logged on the way: a hundred times, or after each of fewer steps."""

    steps: int
    course: Course
    best: Best | None = None


def step_count(datasets: Sequence[Dataset], config: TrainingConfig) -> int:
    """Steps of a run (a few less where rows repeat texts)."""
    return max(1, round(config.epochs * sum(-(-len(dataset.rows) // config.batch_size) for dataset in datasets)))


def fit(
    model: SentenceTransformer,
    datasets: Sequence[Dataset],
    config: TrainingConfig,
    prompts: Mapping[str, Mapping[str, str]],
    on_step: Callable[[Step], None],
    *,
    run: Run | None = None,
    measure: Callable[[], Mapping[str, float]] | None = None,
    processes: Processes | None = None,
    follow: Callable[[Any], None] | None = None,
) -> Fit:
    """Train what is trainable in `model`, in place. `prompts` are by data set and role.

    run      where checkpoints go, and the one to go on from
    measure  what `model` is measured with at each checkpoint; in the end it is what it was at the best one
    follow   is handed the trainer before it begins
    CheckFailed when the training diverges, UnusableInput when it does not fit into memory or on the disk.
    """
    initial = {name: parameter.detach().clone() for name, parameter in _trainable(model).items()}
    with tempfile.TemporaryDirectory(prefix="ingraft-training-") as scratch:
        folder = run.folder if run else Path(scratch)
        trainer = _trainer(model, datasets, config, prompts, folder, run is not None, measure, processes or Processes())
        trainer.add_callback(report_steps(on_step))
        if follow:
            follow(trainer)
        # Theirs know only an adapter called `default`, load the base again, and write a card with rows of the data.
        trainer._save = lambda output_dir=None, state_dict=None: save_checkpoint(model, Path(output_dir or folder))
        trainer._load_from_checkpoint = lambda path, *_: load_checkpoint(model, Path(path), config.adapter_name)
        if run:
            trainable = sum(parameter.numel() for parameter in _trainable(model).values())
            check_room(folder, trainable)
            trainer.add_callback(before_saving(lambda: check_room(folder, trainable)))
        try:
            trainer.train(resume_from_checkpoint=str(run.resume_from) if run and run.resume_from else None)
        except (RuntimeError, MemoryError) as error:
            if not _is_memory_short(error):
                raise
            raise UnusableInput(
                f"Not enough memory for batches of {config.batch_size} rows.",
                hint="Lower --batch-size, or embed less at a time with --mini-batch-size.",
            ) from None
        _check_trained(model, initial, config)
        best = _restore_best(model, trainer, config, measure) if measure else None
    return Fit(trainer.state.global_step, _course(trainer.state.log_history), best)


def _course(history: Sequence[Mapping[str, float]]) -> Course:
    logged = [entry for entry in history if "loss" in entry]
    measured = {
        int(entry["step"]): {
            name.removeprefix("eval_"): float(value)
            for name, value in entry.items()
            if name.startswith("eval_") and not name.endswith(_TIMES)
        }
        for entry in history
        if any(name.startswith("eval_") for name in entry)
    }
    return Course(
        steps=tuple(int(entry["step"]) for entry in logged),
        losses=tuple(float(entry["loss"]) for entry in logged),
        learning_rates=tuple(float(entry["learning_rate"]) for entry in logged),
        measured=measured,
    )


def _trainer(
    model: SentenceTransformer,
    datasets: Sequence[Dataset],
    config: TrainingConfig,
    prompts: Mapping[str, Mapping[str, str]],
    folder: Path,
    checkpoints: bool,
    measure: Callable[[], Mapping[str, float]] | None,
    processes: Processes,
) -> Any:
    import sentence_transformers
    import torch
    from transformers import PrinterCallback

    model_type = type(model).__name__
    rows = {dataset.name: _rows(dataset) for dataset in datasets}
    losses = {dataset.name: _loss(model, dataset, config, gather=processes.count > 1) for dataset in datasets}
    only = datasets[0].name if len(datasets) == 1 else None
    share = rows_for_each(config.batch_size, processes)
    every = config.checkpoints.every
    when: dict[str, Any] = {"save_strategy": "no"}
    if checkpoints:
        when = {"save_strategy": "steps", "save_steps": every, "save_total_limit": config.checkpoints.keep}
    if measure:
        when |= {
            "eval_strategy": "steps",
            "eval_steps": every,
            "metric_for_best_model": main_metric(measure()),
            "greater_is_better": True,
        }
    arguments = getattr(sentence_transformers, f"{model_type}TrainingArguments")(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=share,
        learning_rate=config.learning_rate,
        warmup_steps=0.1,  # a share of the steps
        prompts=_prompts(prompts, only),
        seed=config.seed,
        logging_strategy="steps",
        logging_steps=_logging_steps(step_count(datasets, config), every if checkpoints else None),
        run_name=config.output.name,
        project=PROJECT,
        bf16=config.bf16 is True,
        # Without it the library wants a GPU for bfloat16, and leaves several processes without one to train apart.
        use_cpu=(config.bf16 is True or processes.count > 1) and not torch.cuda.is_available(),
        activation_checkpointing=config.gradient_checkpointing is True,
        ddp_backend="gloo" if processes.count > 1 and not torch.cuda.is_available() else None,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        **samplers(datasets, processes.count),
        **when,
    )
    arguments.report_to = []  # the library adds one by itself where the environment names its server
    trainer = getattr(sentence_transformers, f"{model_type}Trainer")(
        model=model,
        args=arguments,
        train_dataset=rows if only is None else rows[only],
        loss=losses if only is None else losses[only],
        evaluator=evaluator(measure) if measure else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _prompts(prompts: Mapping[str, Mapping[str, str]], only: str | None) -> dict[str, Any] | None:
    if only is not None:
        return dict(prompts[only]) or None
    return {name: dict(by_role) for name, by_role in prompts.items() if by_role} or None


def main_metric(metrics: Mapping[str, float]) -> str:
    """The first that is measured is what a model is chosen by."""
    return next(iter(metrics))


def _logging_steps(steps: int, every: int | None) -> int:
    """Steps between two losses. A checkpoint falls on one: a resumed run then logs the means of the same stretches."""
    wanted = max(1, steps // _LOGGED_STEPS)
    return wanted if every is None else max(n for n in range(1, min(wanted, every) + 1) if every % n == 0)


def _restore_best(
    model: SentenceTransformer, trainer: Any, config: TrainingConfig, measure: Callable[[], Mapping[str, float]]
) -> Best:
    """Set `model` to its best checkpoint and measure it again: CheckFailed when that gives another figure."""
    state, metric = trainer.state, trainer.args.metric_for_best_model
    load_checkpoint(model, Path(state.best_model_checkpoint), config.adapter_name)
    again = measure()[metric]
    if abs(again - state.best_metric) > _REPEATED:
        raise CheckFailed(
            f"The best checkpoint, {state.best_model_checkpoint}, measured {metric} {state.best_metric:.6f} while "
            f"training and {again:.6f} when it was loaded again."
        )
    return Best(state.best_global_step, metric, again)


def _rows(dataset: Dataset) -> Any:
    from datasets import Dataset as Rows

    return Rows.from_dict({role: list(values) for role, values in dataset.rows.columns.items()})


def _loss(model: Any, dataset: Dataset, config: TrainingConfig, *, gather: bool) -> Any:
    arguments = dict(dataset.loss_arguments)
    if dataset.loss.startswith("Cached") and isinstance(config.mini_batch_size, int):
        arguments.setdefault("mini_batch_size", config.mini_batch_size)
    return make_loss(model, dataset.loss, arguments, matryoshka=config.matryoshka, gather=gather)


def _is_memory_short(error: Exception) -> bool:
    """torch has an exception for it on GPUs; a CPU that runs out of memory is a RuntimeError like any other."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said


def _trainable(model: SentenceTransformer) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _check_trained(model: SentenceTransformer, initial: Mapping[str, Any], config: TrainingConfig) -> None:
    """Something was learnt, and nothing blew up."""
    import torch

    trained = _trainable(model)
    for name, parameter in trained.items():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckFailed(
                f"The training diverged: {name} holds NaN or infinity. Nothing was written.",
                hint=f"Lower --learning-rate, which was {config.learning_rate:g}.",
            )
    if all(torch.equal(parameter.detach(), initial[name].to(parameter)) for name, parameter in trained.items()):
        raise CheckFailed(
            "The training changed nothing: the adapter is as it began. Nothing was written.",
            hint=f"Raise --learning-rate, which was {config.learning_rate:g}, or train on more rows.",
        )
