"""Does the merged model answer what base + adapter answer? Both are run; the merged one where peft cannot be imported.

What may differ is measured, not guessed: the merged model is run again with the weights that were rounded shaken by as
much as rounding to the stored dtype may have moved them. Three questions are asked of all outputs together:

    ‖merged − adapted‖ ≤ 6 × what shaking does        the answers are the same up to rounding
    1 − ⟨merged − base, e⟩/⟨e, e⟩ is near zero         the adapter's effect e = adapted − base is there once, not half
    merged and base are apart                         the result is not the base
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy
import torch
from numpy.typing import NDArray

from ingraft.adapted.load import open_unadapted
from ingraft.adapted.quiet import quiet
from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput, first_line
from ingraft.layout import MODEL_CLASSES, read_layout
from ingraft.verification.answers import Answers
from ingraft.verification.encoding import Outputs, outputs
from ingraft.verification.layers import answers_of, compare_layers, roundings_of
from ingraft.verification.plain_process import PlainOutputs, encode_without_peft
from ingraft.verification.report import Check
from ingraft.verification.tasks import Items, Task, check_task, compare_task, measure
from ingraft.verification.texts import TEXTS

_Wide: TypeAlias = NDArray[numpy.float64]

# Shaking moves weights a little more than rounding does, but few texts give a coarse estimate.
_ROUNDING_FACTOR = 6.0
# Two ways to compute the same in float32 differ by more than one rounding of the weights.
_FLOAT32_UNIT = 2.0**-22
# The share of the effect that may be missing or too much: what rounding explains, but never a quarter.
_EFFECT_MINIMUM, _EFFECT_MAXIMUM = 0.01, 0.25
_UNITS = {"F64": 2.0**-53, "F32": 2.0**-24, "BF16": 2.0**-8, "F16": 2.0**-11}


@dataclass(frozen=True)
class EmbeddingParity:
    """The comparison of merged, unmerged and base outputs.

    difference  ‖merged − adapted‖ / ‖adapted‖, and `allowed` the same for what rounding explains
    of_effect   ‖merged − adapted‖ / ‖adapted − base‖
    effect      ‖adapted − base‖ / ‖adapted‖
    present     how much of the adapter's effect the merged model has: 1 is right, 0 the base, ½ half a scale
    max_abs     largest difference of a single number
    cosine      smallest cosine between a merged and an unmerged row
    by_text     ‖merged − adapted‖ / ‖adapted‖ of each text
    answers     all the outputs; None where they have different shapes
    task        what the user's own task measured (`compare_task`)
    """

    model_class: str
    stored: str
    texts: int
    difference: float
    allowed: float
    of_effect: float
    effect: float
    present: float
    max_abs: float
    cosine: float
    by_text: tuple[float, ...]
    checks: tuple[Check, ...]
    answers: Answers | None = field(default=None, repr=False, compare=False)
    task: Mapping[str, Any] | None = None

    def figures(self) -> dict[str, Any]:
        """The numbers in JSON types; none where the outputs could not be compared."""
        if self.answers is None:
            return {}
        return {
            "embeddings": {
                "model_class": self.model_class,
                "stored": self.stored,
                "texts": self.texts,
                "difference": self.difference,
                "allowed": self.allowed,
                "of_effect": self.of_effect,
                "effect": self.effect,
                "present": self.present,
                "max_abs": self.max_abs,
                "cosine": self.cosine,
                "by_text": list(self.by_text),
            },
            **({"task": dict(self.task)} if self.task else {}),
        }


def embedding_parity(
    merged: Path,
    adapter: str | Path,
    base: str | Path | None,
    *,
    texts: Sequence[str] | None = None,
    task: Task | None = None,
    trust_remote_code: bool = False,
) -> EmbeddingParity:
    """Compare the model in `merged` with `base` + `adapter`, run through PEFT, on `texts` (default: a set of ours).

    All numbers are computed in float32, whatever they are stored in. Raises UnusableInput when base or adapter cannot
    be run; that the merged model cannot, or that it differs, is in the checks.
    """
    chosen = list(texts or TEXTS)
    with open_unadapted(adapter, base, trust_remote_code=trust_remote_code, dtype="float32") as unadapted, quiet():
        model, model_class = unadapted.model, unadapted.model_class
        if task:
            check_task(task, model_class)
        before, task_before = _encode(model, model_class, chosen), _measured(model, task)
        changes = unadapted.adapt()
        adapted, task_adapted = _encode(model, model_class, chosen), _measured(model, task)
        layers = {
            folder: answers_of(part.transformer, changes[folder].touched)
            for folder, part in zip(unadapted.folders, unadapted.parts, strict=True)
        }
        base_dtypes = [part.base.checkpoint.dtype for part in unadapted.parts]
        roundings = [roundings_of(part.adapter.config) for part in unadapted.parts]
    del model, unadapted
    gc.collect()  # the merged model needs the room
    touched = {folder: change.touched for folder, change in changes.items()}
    try:
        stored = _stored(merged)
        plain = encode_without_peft(
            merged,
            chosen,
            touched=touched,
            unit=_unit(stored),
            everywhere=any(dtype != stored for dtype in base_dtypes),
            task=task,
            trust_remote_code=trust_remote_code,
        )
    except UnusableInput as error:
        meaning = "the merged model loads and answers where peft cannot be imported"
        return _unlike(model_class, "", len(chosen), Check("embeddings", False, meaning, where=error.message))
    parity = compare(before, adapted, plain, chosen, model_class=model_class, stored=stored)
    if task:
        parity = replace(parity, task=compare_task(task, task_before, task_adapted, plain.task))
    if not any(layers.values()) or not all(roundings):
        return parity
    by_layer = compare_layers(layers, plain.layers, unit=_coarsest(merged), roundings=max(roundings))
    return replace(parity, checks=(by_layer, *parity.checks))


def compare_with_live(
    merged: Path, model: Any, *, texts: Sequence[str] | None = None, trust_remote_code: bool = False
) -> EmbeddingParity:
    """Compare the model in `merged` with the live `model` that has the adapter on it. `model` is not changed."""
    chosen = list(texts or TEXTS)
    # A user's own class is one of Sentence Transformers' underneath.
    model_class = next((known.__name__ for known in type(model).__mro__ if known.__name__ in MODEL_CLASSES), "")
    with quiet():
        live = copy.deepcopy(model).to("cpu", torch.float32).eval()
        if "_original_forward" in vars(live):  # accelerate left its own, in half precision, after a training with bf16
            vars(live).pop("forward", None)
        adapted = _encode(live, model_class, chosen)
        with _adapters_off(live):
            before = _encode(live, model_class, chosen)
    del live
    gc.collect()
    stored = _stored(merged)
    plain = encode_without_peft(merged, chosen, touched={}, unit=_unit(stored), trust_remote_code=trust_remote_code)
    return compare(before, adapted, plain, chosen, model_class=model_class, stored=stored)


def compare(
    before: Outputs, adapted: Outputs, plain: PlainOutputs, texts: Sequence[str], *, model_class: str, stored: str
) -> EmbeddingParity:
    """Figures and checks from the outputs of base, base + adapter, and merged model."""
    a, b, m = (part.rows.astype(numpy.float64) for part in (adapted, before, plain.outputs))
    meaning = "the merged model's answers have the shape of the unmerged one's"
    if a.shape != m.shape or a.shape != b.shape:
        found, wanted = (f"{x.shape[0]} rows of {x.shape[1]}" for x in (m, a))
        failed = Check("embeddings", False, meaning, where=f"{found}, not {wanted}")
        return _unlike(model_class, stored, len(texts), failed)
    effect, error, size = a - b, m - a, float(numpy.linalg.norm(a)) or 1.0
    moved = float(numpy.linalg.norm(effect))
    shaken = float(numpy.sqrt(numpy.mean([numpy.sum((s.astype(numpy.float64) - m) ** 2) for s in plain.shaken])))
    difference, floor = float(numpy.linalg.norm(error)), _ROUNDING_FACTOR * shaken
    present = float(numpy.sum((m - b) * effect) / moved**2) if moved else 0.0
    from_base = float(numpy.linalg.norm(m - b))
    by_text = _by_text(error, a, adapted.of_text, len(texts))
    worst = texts[int(numpy.argmax(by_text))]
    explained = min(_EFFECT_MAXIMUM, max(_EFFECT_MINIMUM, floor / moved / 2 if moved else 0.0))
    checks = (
        Check(
            "embeddings",
            bool(difference <= floor),
            "‖merged − unmerged‖ / ‖unmerged − base‖ of all outputs; allowed is what rounding to the dtype explains",
            difference / (moved or size),
            floor / (moved or size),
            f"worst for {worst[:60]!r}",
        ),
        Check(
            "adapter's effect",
            bool(abs(present - 1.0) <= explained),
            "how far the merged model is from having the adapter's whole effect on the outputs, as a share of it",
            abs(present - 1.0),
            explained,
            _effect_note(present, shaken / moved if moved else 0.0, stored),
        ),
        Check(
            "not the base",
            bool(moved > 0 and from_base > moved / 2),
            "‖merged − base‖ / ‖unmerged − base‖ of all outputs is above one half",
            from_base / moved if moved else 0.0,
            None,
            "" if moved else "the adapter does not change the outputs",
        ),
    )
    return EmbeddingParity(
        model_class=model_class,
        stored=stored,
        texts=len(texts),
        difference=difference / size,
        allowed=floor / size,
        of_effect=difference / moved if moved else float("inf"),
        effect=moved / size,
        present=present,
        max_abs=float(numpy.abs(error).max()),
        cosine=_smallest_cosine(m, a),
        by_text=tuple(by_text.tolist()),
        checks=checks,
        answers=Answers(model_class, tuple(texts), adapted.of_text, before.rows, adapted.rows, plain.outputs.rows),
    )


def _effect_note(present: float, rounding: float, stored: str) -> str:
    note = f"{present:.3g} of the effect is there"
    if rounding > _EFFECT_MAXIMUM:
        note += f"; rounding to {stored} alone moves the outputs by {rounding:.2g} of it: merge with --dtype float32"
    return note


def _encode(model: Any, model_class: str, texts: Sequence[str]) -> Outputs:
    try:
        return outputs(model, model_class, texts)
    except Exception as error:  # whatever a model's code raises for its input
        reason = first_line(error)
        raise UnusableInput(f"The unmerged model cannot be run: {reason}") from None


def _measured(model: Any, task: Task | None) -> Items:
    return measure(model, task) if task else {}


def _unlike(model_class: str, stored: str, texts: int, check: Check) -> EmbeddingParity:
    nan = float("nan")
    return EmbeddingParity(model_class, stored, texts, nan, nan, nan, nan, nan, nan, nan, (), (check,))


def _by_text(error: _Wide, adapted: _Wide, of_text: Any, count: int) -> _Wide:
    """‖merged − adapted‖ / ‖adapted‖ over the rows of each text."""
    wrong = numpy.bincount(of_text, (error**2).sum(axis=1), minlength=count)
    whole = numpy.bincount(of_text, (adapted**2).sum(axis=1), minlength=count)
    shares: _Wide = numpy.sqrt(wrong / numpy.maximum(whole, 1e-30))
    return shares


def _smallest_cosine(merged: _Wide, adapted: _Wide) -> float:
    """Over the rows that are not zero; 1 for scores, which have no direction."""
    if merged.shape[1] == 1:
        return 1.0
    norms = numpy.linalg.norm(merged, axis=1) * numpy.linalg.norm(adapted, axis=1)
    kept = norms > 0
    return float(((merged * adapted).sum(axis=1)[kept] / norms[kept]).min()) if kept.any() else 1.0


def _stored(merged: Path) -> str:
    layout = read_layout(merged)
    return open_checkpoint(layout.transformer_folder).dtype


def _coarsest(merged: Path) -> float:
    """The unit of the coarsest dtype among the stored weights."""
    return max((_unit(info.dtype) for info in open_checkpoint(read_layout(merged).transformer_folder)), default=0.0)


def _unit(stored: str) -> float:
    return max(_UNITS.get(stored, _FLOAT32_UNIT), _FLOAT32_UNIT)


@contextmanager
def _adapters_off(model: Any) -> Iterator[None]:
    """The live model without its adapters' effect."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers = [module for module in model.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
