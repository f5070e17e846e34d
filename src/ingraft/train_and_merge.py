"""A whole run: from data and a config to an adapter, a merged model and a page about both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ingraft.errors import IngraftError
from ingraft.pipeline import MergeResult, merge
from ingraft.progress import Progress

if TYPE_CHECKING:
    from ingraft.training.config import TrainingConfig
    from ingraft.training.facts import Observer, TrainingResult


def train_and_merge(
    config: TrainingConfig, *, observe: Observer | None = None, progress: Progress | None = None
) -> tuple[TrainingResult, MergeResult | None]:
    """Train an adapter, and merge it where `config.merge` names an output; the merged model is proven or not there.

    `config.report` names a page on it. An output that is in use is refused before the training, not after it. Raises
    UnusableInput or CheckFailed; an adapter that was trained then stays.
    """
    from ingraft.training.processes import these_processes
    from ingraft.training.run import train

    if config.report is not None:
        from ingraft.report import check_report

        check_report(config.report, merged=config.merge, inputs=(config.model, *config.data_names))
    trained = train(config, observe=observe)
    if not these_processes().writes:
        return trained, None
    if config.merge is None:
        _report(config)
        return trained, None
    try:
        merged = merge(
            trained.output,
            config.merge,
            # (The original weights are what a merge takes by itself; it then says so.)
            base_precision="dequantized" if config.base_precision == "dequantized" else None,
            overwrite=config.overwrite,
            trust_remote_code=config.trust_remote_code,
            progress=progress,
        )
    except IngraftError as error:
        _report(config, reason=error.message)
        raise
    _report(config, merged)
    return trained, merged


def _report(config: TrainingConfig, merged: MergeResult | None = None, *, reason: str = "") -> None:
    """Write the page of the run where one is wanted; a merge that failed for `reason` does not keep it from being."""
    if config.report is None:
        return
    from ingraft.report import MergeVerdict, write_training_report
    from ingraft.training.config import command_line
    from ingraft.training.config_file import to_yaml

    proof = merged.report if merged else None
    write_training_report(
        config.report,
        config.output,
        merge=MergeVerdict(config.merge, proof, reason) if config.merge is not None else None,
        settings=to_yaml(config),
        command=command_line(config),
    )
