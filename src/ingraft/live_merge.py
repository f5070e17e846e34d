"""A merge out of a notebook or a trainer: the adapter of the live model is saved, merged, and compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.hub import expanded
from ingraft.pipeline import MergeResult, merge
from ingraft.plan import DType, FileLayout
from ingraft.publish import check_output, published

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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
    live model before it is published: CheckFailed when they differ. `model` itself is not changed.
    """
    from ingraft.verification.embeddings import compare_with_live

    output = expanded(output)
    kept = check_places(model, output, adapter_dir=adapter_dir, base=base, overwrite=overwrite)
    if not _has_adapter(model):
        raise UnusableInput(
            "The model has no adapter: it is a plain model already.", hint="Save it with model.save_pretrained(output)."
        )
    with published(kept, overwrite=overwrite) as folder:
        model.save_pretrained(str(folder))
        if not any(folder.rglob("adapter_config.json")):
            raise UnusableInput("sentence-transformers saved no adapter for this model.", hint="Is the adapter active?")

    def equals_the_live_one(folder: Path) -> None:
        parity = compare_with_live(folder, model, trust_remote_code=trust_remote_code)
        if failed := [check for check in parity.checks if not check.passed]:
            raise CheckFailed(
                f"The merged model does not equal the live one: {failed[0].name} "
                f"({failed[0].value}, allowed {failed[0].limit}).",
                hint=f"Nothing was published; the adapter is safe in {kept}. Was the base changed in memory after it "
                "was loaded, or cast? What was cast is merged with dtype='bfloat16' (or 'float16').",
            )

    return merge(
        kept,
        output,
        base=base,
        dtype=dtype,
        layout=layout,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        approve=equals_the_live_one,
    )


def check_places(
    model: SentenceTransformer,
    output: Path,
    *,
    adapter_dir: str | Path | None = None,
    base: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Where the adapter will be kept. UnusableInput when that place or `output` is in use, above all by the base."""
    kept = expanded(adapter_dir) if adapter_dir is not None else output.with_name(f"{output.name}-adapter")
    bases = tuple(_local_bases(model, base))
    check_output(output, overwrite=overwrite, inputs=(*bases, kept))
    check_output(kept, overwrite=overwrite, inputs=bases)
    return kept


def _local_bases(model: Any, base: str | Path | None) -> Iterator[Path]:
    """Directories that the model was loaded from, as far as transformers remembers them, and the one that is named."""
    for name in {base, *(getattr(module, "name_or_path", None) for module in model.modules())}:
        if isinstance(name, (str, Path)) and str(name) and expanded(name).is_dir():
            yield expanded(name)


def _has_adapter(model: Any) -> bool:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    return any(isinstance(module, (PeftModel, BaseTunerLayer)) for module in model.modules())
