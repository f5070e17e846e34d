"""Training and merging in one go: in a notebook, from the live model, or in a whole run from data to merged model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed, IngraftError, UnusableInput
from ingraft.pipeline import MergeResult, Progress, merge
from ingraft.plan import DType, FileLayout
from ingraft.publish import check_output, published

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ingraft.training.config import TrainingConfig
    from ingraft.training.facts import Observer, TrainingResult


def merge_trained(
    model: SentenceTransformer,
    output: str | Path,
    *,
    adapter_dir: str | Path | None = None,
    base: str | Path | None = None,
    dtype: DType = "auto",
    layout: FileLayout = "portable",
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> MergeResult:
    """Save the adapter of the live `model`, merge it into its base and publish the plain model at `output`.

    The adapter is saved first, into `adapter_dir` (default: `<output>-adapter`), and stays there whatever happens
    next. The merged model is loaded where `peft` cannot be imported, and its outputs are compared with those of the
    live model: CheckFailed when they differ. `model` itself is not changed.
    """
    from ingraft.verification.embeddings import compare_with_live

    output = Path(output)
    kept = Path(adapter_dir) if adapter_dir is not None else output.with_name(f"{output.name}-adapter")
    check_output(output, overwrite=overwrite)
    check_output(kept, overwrite=overwrite)
    if not _has_adapter(model):
        raise UnusableInput(
            "The model has no adapter: it is a plain model already.", hint="Save it with model.save_pretrained(output)."
        )
    with published(kept, overwrite=overwrite) as folder:
        model.save_pretrained(str(folder))
        if not any(folder.rglob("adapter_config.json")):
            raise UnusableInput("sentence-transformers saved no adapter for this model.", hint="Is the adapter active?")
    result = merge(
        kept,
        output,
        base=base,
        dtype=dtype,
        layout=layout,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    parity = compare_with_live(result.output, model, trust_remote_code=trust_remote_code)
    failed = [check for check in parity.checks if not check.passed]
    if failed:
        raise CheckFailed(
            f"The merged model in {output} does not equal the live one: {failed[0].name} "
            f"({failed[0].value}, allowed {failed[0].limit}).",
            hint=f"The adapter is safe in {kept}. Was the base changed in memory after it was loaded?",
        )
    return result


def _has_adapter(model: Any) -> bool:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, (PeftModel, BaseTunerLayer)) for module in model.modules())


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

        check_report(config.report)
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
