"""The training itself, by SentenceTransformerTrainer, reduced to what happens in it: steps and losses."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.training.config import TrainingConfig
from ingraft.training.facts import Step
from ingraft.training.losses import make_loss
from ingraft.training.prepare import Dataset

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_LOGGED_STEPS = 20


@dataclass(frozen=True)
class Fit:
    """Steps that were taken, and the mean losses of up to twenty stretches of them."""

    steps: int
    losses: tuple[float, ...]


def fit(
    model: SentenceTransformer,
    datasets: Sequence[Dataset],
    config: TrainingConfig,
    prompts: Mapping[str, Mapping[str, str]],
    on_step: Callable[[Step], None],
) -> Fit:
    """Train what is trainable in `model`, in place. `prompts` are by data set and role.

    CheckFailed when the training diverges, UnusableInput when it does not fit into memory.
    """
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers import PrinterCallback

    steps = max(1, round(config.epochs * sum(-(-len(dataset.rows) // config.batch_size) for dataset in datasets)))
    rows = {dataset.name: _rows(dataset) for dataset in datasets}
    losses = {dataset.name: _loss(model, dataset, config) for dataset in datasets}
    only = datasets[0].name if len(datasets) == 1 else None
    initial = {name: parameter.detach().clone() for name, parameter in _trainable(model).items()}
    with tempfile.TemporaryDirectory(prefix="ingraft-training-") as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=config.epochs,
            per_device_train_batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            warmup_steps=0.1,  # a share of the steps
            batch_sampler=_sampler(datasets),
            prompts={name: dict(by_role) for name, by_role in prompts.items()} if only is None else dict(prompts[only]),
            seed=config.seed,
            save_strategy="no",
            logging_strategy="steps",
            logging_steps=max(1, steps // _LOGGED_STEPS),
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=rows if only is None else rows[only],
            loss=losses if only is None else losses[only],
            callbacks=[_callback(on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        except (RuntimeError, MemoryError) as error:
            if not _is_memory_short(error):
                raise
            raise UnusableInput(
                f"Not enough memory for batches of {config.batch_size} rows.", hint="Lower --batch-size."
            ) from None
    _check_trained(model, initial, config)
    course = tuple(float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry)
    return Fit(trainer.state.global_step, course)


def _rows(dataset: Dataset) -> Any:
    from datasets import Dataset as Rows

    return Rows.from_dict({role: list(values) for role, values in dataset.rows.columns.items()})


def _loss(model: Any, dataset: Dataset, config: TrainingConfig) -> Any:
    arguments = dict(dataset.loss_arguments)
    if dataset.loss.startswith("Cached") and config.mini_batch_size is not None:
        arguments.setdefault("mini_batch_size", config.mini_batch_size)
    return make_loss(model, dataset.loss, arguments, config.matryoshka)


def _sampler(datasets: Sequence[Dataset]) -> Any:
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    kinds = {dataset.rows.kind for dataset in datasets}
    if kinds == {"labelled texts"}:
        return BatchSamplers.GROUP_BY_LABEL
    if "labelled texts" in kinds:
        return sampler_by_columns
    # Two equal positives in a batch would each be a wrong answer to the other's query.
    return BatchSamplers.NO_DUPLICATES if "pairs" in kinds else BatchSamplers.BATCH_SAMPLER


def sampler_by_columns(dataset: Any, **settings: Any) -> Any:
    """Batches with several texts of a class where a row is a text and its class, else without repeated texts."""
    from sentence_transformers.base.sampler import GroupByLabelBatchSampler, NoDuplicatesBatchSampler

    kind = GroupByLabelBatchSampler if "text" in dataset.column_names else NoDuplicatesBatchSampler
    return kind(dataset, **settings)


def _callback(on_step: Callable[[Step], None]) -> Any:
    from transformers import TrainerCallback

    class ReportSteps(TrainerCallback):  # type: ignore[misc,unused-ignore]
        """Hands steps and the last logged loss to `on_step`."""

        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(Step(0, state.max_steps, None))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(Step(state.global_step, state.max_steps, self.loss))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

    return ReportSteps()


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
