"""The whole way: merge an adapter, load the result without peft, and hold it against the model that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from conformance.adapters import TUNERS, Trained, by_peft, lora
from conformance.architectures import ARCHITECTURES, base
from conformance.comparison import (
    check_files,
    check_parameters,
    count_changed,
    error,
    exact_parameters,
    in_float64,
    outputs,
    tied_names,
)
from helpers.merging import cli
from helpers.models import new_folder, quiet
from ingraft.pipeline import MergeResult, merge

# Largest relative error of the outputs, computed in float64 with weights that were rounded to this dtype once; about
# twice what was measured, most of it with experts.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 7e-2, torch.float16: 5e-3}
NOISE = TUNERS["lora"].noise
# The adapter changes the outputs by more than that.
EFFECT = 4e-3


def check_merge(
    trained: Trained,
    base: Path,
    architecture: str,
    *,
    noise: float,
    remains: bool = False,
    changed: int | None = None,
    **options: Any,
) -> MergeResult:
    """Merge, prove, load, and compare with the live model: parameters, stored bytes and outputs.

    base            folder with the base's weights as safetensors
    noise, remains  of the tuner
    changed         how many stored numbers are not the base's, where the loaded models cannot tell
    options         of the merge
    """
    result = merge(trained.folder, new_folder("merged") / "out", **options)
    assert result.report is not None
    assert result.report.passed
    assert not [*result.output.rglob("adapter_*")]
    after = load(result.output, architecture, trained.before)
    merged, before = transformer_of(after), transformer_of(trained.before)
    dtype = next(iter(merged.parameters())).dtype
    if changed is None:
        changed = count_changed(merged, before)
    exact = exact_parameters(in_float64(trained.live))
    check_parameters(merged, before, exact, noise=noise, remains=remains)
    check_files(result.output / result.plan.layout.transformer, base, changed, may_add=tied_names(before))
    expected = outputs(in_float64(trained.whole), architecture)
    assert error(outputs(in_float64(trained.before), architecture), expected) > EFFECT
    found = error(outputs(in_float64(after), architecture), expected)
    assert found < LIMITS[dtype], f"outputs differ by {found:.2e}"
    return result


@quiet()
def load(folder: Path, architecture: str, like: Any) -> Any:
    """The model in `folder`, loaded as `like` was: by transformers or by Sentence Transformers."""
    if hasattr(like, "preprocess"):
        import sentence_transformers

        return getattr(sentence_transformers, type(like).__name__)(str(folder), device="cpu").eval()
    model_class = getattr(transformers, ARCHITECTURES[architecture].auto)
    model, info = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def transformer_of(model: Any) -> Any:
    """The transformers model in a Sentence Transformers one, or the model itself."""
    return model[0].model if hasattr(model, "preprocess") else model


def check_lora(architecture: str, folder: Path | None = None, *, size: float = 1.0, **options: Any) -> None:
    """Train LoRA with `options` on a base, merge, and compare."""
    folder = folder or base(architecture)
    options.setdefault("target_modules", list(ARCHITECTURES[architecture].linear))
    trained = by_peft(folder, lora(**options), auto=ARCHITECTURES[architecture].auto, size=size)
    check_merge(trained, folder, architecture, noise=TUNERS["dora" if options.get("use_dora") else "lora"].noise)


def check_refused(adapter: Path, cause: str, *options: str | Path) -> None:
    """Exit code 2, a message that names the cause, and nothing written, not even beside the output."""
    parent = new_folder("refused")
    run = cli("merge", adapter, parent / "out", *options)
    assert run.code == 2, run.out + run.err
    assert cause in run.err
    assert not [*parent.iterdir()]
