"""A static model as one visible pipeline: load the teacher → distil → write → read back → measure both → publish.

It is another model: no answer of it is the teacher's, so nothing is proven. What it loses is measured and told.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.adapted.sentence import load_model
from ingraft.errors import CheckFailed, UnusableInput
from ingraft.exporters.distil import Distilled, check_distillable, distil, require_distiller
from ingraft.exporters.result import StaticResult, Variant
from ingraft.exporters.source import Source, open_layout, open_source
from ingraft.exporters.speed import texts_per_second
from ingraft.exporters.static_folder import write_card, write_manifest, write_model
from ingraft.exporters.tasks import Measure, drop_check, open_measure
from ingraft.layout import read_layout
from ingraft.progress import Progress, Silent
from ingraft.publish import check_output, check_room, clean_up, published
from ingraft.verification.report import Check, VerificationReport
from ingraft.verification.texts import TEXTS

_FEWEST_TEXTS = 3
_TOKENIZER_BYTES = 50_000_000  # no tokenizer.json is larger; with it go card and configs


def export_static(
    model: str | Path,
    output: str | Path,
    *,
    dimensions: int | None = None,
    data: Path | None = None,
    max_drop: float | None = None,
    texts: Sequence[str] | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> StaticResult:
    """Distil the merged `model` with model2vec into a static model in `output`, and measure what that costs.

    dimensions  of the embeddings (default: 256, or as many as the model has)
    data        pairs or scored pairs to measure both models on
    max_drop    refuse a larger loss of the first metric on `data` (default: whatever it costs is told, not refused)
    texts       for the agreement of both models' similarities (default: those of `ingraft verify`)
    Raises UnusableInput, or CheckFailed when `max_drop` is exceeded; in both cases nothing is published.
    """
    started, output = time.monotonic(), Path(output)
    clean_up(output)
    check_output(output, overwrite=overwrite)
    layout = open_layout(model)
    check_distillable(layout)
    require_distiller()
    measure = _measure(data, max_drop)
    chosen = _texts(texts)
    check_output(output, overwrite=overwrite, inputs=(layout.root,))
    shown = progress or Silent()
    shown.begin("model", 0)
    source = open_source(model, trust_remote_code=trust_remote_code)
    shown.end()
    distilled = distil(source, dimensions=dimensions, shown=shown)
    check_room(output, disk=distilled.vectors.nbytes + _TOKENIZER_BYTES, memory=0)
    with published(output, overwrite=overwrite) as folder:
        write_model(source, distilled, folder)
        static = load_model(read_layout(folder), "The static model", trust_remote_code=False, dtype="float32")
        shown.begin("measure", 0)
        agreement = _agreement(source, static, chosen)
        metrics, checks = _metrics(source.live, static, measure, max_drop)
        variants = (
            Variant("teacher", source.nbytes, texts_per_second(source.live, source.model_class, TEXTS)),
            Variant(
                "static",
                (folder / "model.safetensors").stat().st_size,
                texts_per_second(static, source.model_class, TEXTS),
            ),
        )
        shown.end()
        result = _result(output, source, distilled, len(chosen), agreement, checks, variants, metrics, started)
        write_card(source, folder, result)
        write_manifest(source, folder, result)
    return result


def _measure(data: Path | None, max_drop: float | None) -> Measure | None:
    """The task that both models are measured on, read before anything slow begins."""
    if data is not None:
        return open_measure(data, "SentenceTransformer")
    if max_drop is not None:
        raise UnusableInput(
            "--max-drop limits the loss on a task; there is none.",
            hint="Pass pairs or scored pairs with --data FILE, or leave out --max-drop.",
        )
    return None


def _texts(texts: Sequence[str] | None) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(texts or TEXTS))
    if len(chosen) < _FEWEST_TEXTS:
        raise UnusableInput(
            f"{len(chosen)} different texts have too few similarities to compare; at least {_FEWEST_TEXTS} are needed."
        )
    return chosen


def _agreement(source: Source, static: Any, texts: Sequence[str]) -> float:
    """Spearman's ρ between the similarities of all pairs of texts, by each model's own similarity."""
    import numpy
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    first, second = (_similarities(live, texts) for live in (source.live, static))
    if not (numpy.isfinite(first).all() and numpy.isfinite(second).all()):
        raise CheckFailed(
            f"{source.root} answers with numbers that are not finite, or the model distilled from it does.",
            hint="Nothing was written. Run: ingraft inspect on the model, and look at its weights.",
        )
    with quiet():  # it warns where all similarities are one: then there is no order to agree on
        found = float(spearmanr(first, second).statistic)
    return found if numpy.isfinite(found) else 0.0


def _similarities(live: Any, texts: Sequence[str]) -> Any:
    """Those of each text with every later one."""
    import numpy

    with quiet():
        vectors = live.encode(list(texts), show_progress_bar=False, convert_to_tensor=True)
        return live.similarity(vectors, vectors).numpy()[numpy.triu_indices(len(texts), k=1)]


def _metrics(
    teacher: Any, static: Any, measure: Measure | None, max_drop: float | None
) -> tuple[dict[str, tuple[float, float]], tuple[Check, ...]]:
    """metric → (teacher, static), and the gate; CheckFailed when more than `max_drop` is lost."""
    if measure is None:
        return {}, ()
    before, after = measure(teacher), measure(static)
    found = {name: (before[name], after[name]) for name in before}
    if max_drop is None:
        return found, ()
    forms = ("of the teacher", "static")
    check = drop_check(before, after, max_drop=max_drop, data=measure.data.path, what="distilling", forms=forms)
    if not check.passed:
        raise CheckFailed(
            f"The static model loses {check.value:.4f} of {check.name}, allowed {max_drop:g} ({check.where}).",
            hint="Nothing was written. Keep more with --dimensions, or allow more with --max-drop.",
        )
    return found, (check,)


def _result(
    output: Path,
    source: Source,
    distilled: Distilled,
    texts: int,
    agreement: float,
    checks: tuple[Check, ...],
    variants: tuple[Variant, ...],
    metrics: dict[str, tuple[float, float]],
    started: float,
) -> StaticResult:
    return StaticResult(
        output=output,
        teacher=source.name,
        architecture=source.architecture,
        parameters=source.parameters,
        pooling=distilled.pooling,
        tokens=distilled.tokens,
        dimensions=distilled.dimensions,
        normalised=source.layout.modules[-1].kind == "Normalize",
        texts=texts,
        agreement=agreement,
        report=VerificationReport(checks),
        variants=variants,
        seconds=time.monotonic() - started,
        metrics=metrics,
    )
