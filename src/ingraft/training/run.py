"""The visible pipeline of `ingraft train`: read → split → load → measure → train → measure → save."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.errors import UnusableInput
from ingraft.publish import check_output, published
from ingraft.training.config import TrainingConfig, check_settings
from ingraft.training.convert import initial_matrices
from ingraft.training.evaluation import Metrics, Task, evaluate
from ingraft.training.facts import Evaluated, Evaluating, Event, Mined, Mining, Observer, TrainingResult
from ingraft.training.fit import fit
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
from ingraft.training.prepare import Dataset, prepare
from ingraft.training.quiet import import_libraries, quiet_libraries
from ingraft.training.record import write_record
from ingraft.training.save import ADAPTER_CONFIG, ADAPTER_WEIGHTS, keep_card_private, save_adapter

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train(config: TrainingConfig, *, task: Task | None = None, observe: Observer | None = None) -> TrainingResult:
    """Train a LoRA adapter on the rows of a file and publish it at `config.output`, or leave nothing behind.

    `task` is measured before and after instead of held-out rows; set `config.holdout` to 0 with it, unless rows
    are to be left out all the same. `observe` is told what is found out, stage by stage. Raises UnusableInput or
    CheckFailed.
    """
    observe = observe or _unobserved
    seconds: dict[str, float] = {}
    check_settings(config)
    root, base_name = base_directory(config)
    _check_output(config, root)
    prepared = prepare(config, task)
    for facts in prepared.facts:
        observe(facts)
    datasets, task = prepared.datasets, prepared.task

    # Opened before the long work, not after an hour of training, in case the output cannot be written.
    with published(config.output, overwrite=config.overwrite) as folder:
        with _timed(seconds, "import"):
            import_libraries()
            method = choose_method(config)
        with quiet_libraries():
            from transformers import set_seed

            with _timed(seconds, "load"):
                model = load_base(config, root)
            base = model_facts(model, config.model)
            observe(base)
            before = _measure("base", model, task, observe, seconds)
            set_prompts(model, config.prompts)
            if config.mining.negatives:
                datasets = (_mine(model, datasets[0], config, observe, seconds), *datasets[1:])
            prompts = {dataset.name: prompts_for(model, dataset.rows) for dataset in datasets}
            set_seed(config.seed)
            adapter = add_adapter(model, method, config, (root, base_name), prompts[datasets[0].name])
            initial = initial_matrices(transformer_of(model), "default") if method.converted else {}
            observe(adapter)
            keep_card_private(model, base_name)
            with _timed(seconds, "train"):
                fitted = fit(model, datasets, config, prompts, observe)
            after = _measure("adapted", model, task, observe, seconds)
            with _timed(seconds, "save"):
                save_adapter(model, folder, method, root, initial, trust_remote_code=config.trust_remote_code)
        run = {"data": prepared.facts, "base": base, "adapter": adapter, "before": before, "after": after}
        write_record(folder, config, run, steps=fitted.steps, losses=fitted.losses, seconds=seconds)
    return TrainingResult(
        output=config.output,
        data=prepared.facts[0],
        more_data=prepared.facts[1:],
        model=base,
        adapter=adapter,
        steps=fitted.steps,
        losses=fitted.losses,
        before=before,
        after=after,
        adapter_bytes=(config.output / ADAPTER_WEIGHTS).stat().st_size,
        seconds=seconds,
    )


def _check_output(config: TrainingConfig, base: Path) -> None:
    """The output is free, or an earlier adapter that may be replaced; and no input lies in it."""
    check_output(config.output, overwrite=config.overwrite, inputs=(base, *_local_inputs(config)))
    if config.output.is_dir() and any(config.output.iterdir()) and not (config.output / ADAPTER_CONFIG).is_file():
        raise UnusableInput(
            f"{config.output} is not empty and holds no adapter, so it is not replaced.",
            hint="Name another --output.",
        )


def _local_inputs(config: TrainingConfig) -> list[Path]:
    names = [config.data, config.test, *(more.data for more in config.more_data)]
    paths = [Path(name).expanduser() for name in names if name is not None]
    return [path for path in paths if path.exists()]


def _mine(
    model: SentenceTransformer, dataset: Dataset, config: TrainingConfig, observe: Observer, seconds: dict[str, float]
) -> Dataset:
    observe(Mining())
    with _timed(seconds, "mine"):
        rows = mined(model, dataset.rows, config.mining, seed=config.seed)
    observe(Mined(len(rows), rows.notes[-1], seconds["mine"]))
    return replace(dataset, rows=rows)


def _measure(
    which: str, model: SentenceTransformer, task: Task | None, observe: Observer, seconds: dict[str, float]
) -> Metrics:
    if task is None:
        return {}
    observe(Evaluating(which))
    with _timed(seconds, f"evaluate {which}"):
        metrics = evaluate(model, task)
    observe(Evaluated(which, metrics, seconds[f"evaluate {which}"]))
    return metrics


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - started, 2)


def _unobserved(event: Event) -> None:
    pass
