"""What an export returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ingraft.verification.report import VerificationReport


@dataclass(frozen=True)
class Variant:
    """One form of the model: size of its weights (and graph), speed on this machine, distance from torch's answers.

    difference  the largest of a single number of the answers; None for torch itself
    """

    name: str
    nbytes: int
    texts_per_second: float
    difference: float | None = None

    @property
    def difference_text(self) -> str:
        return "reference" if self.difference is None else f"{self.difference:.2g}"

    @property
    def speed_text(self) -> str:
        return f"{self.texts_per_second:,.0f}" if self.texts_per_second >= 100 else f"{self.texts_per_second:.3g}"


@dataclass(frozen=True)
class ExportResult:
    """A published export.

    graph       the file that a server loads, relative to `output`
    inputs      names of its int64 inputs [batch, length]; `shape` is that of its float32 output
    report      the checks that it passed before it was published
    metrics     metric → (float32, int8), where a quantised export was measured on a task
    """

    output: Path
    model: str
    model_class: str
    architecture: str
    parameters: int
    format: str
    graph: str
    inputs: tuple[str, ...]
    output_name: str
    opset: int | None
    texts: int
    cosine: float
    report: VerificationReport
    variants: tuple[Variant, ...]
    seconds: float
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {**_in_json(self), "inputs": list(self.inputs)}


@dataclass(frozen=True)
class StaticResult:
    """A published static model: another model, distilled from `teacher`.

    normalised  its embeddings have length one, as the teacher's have
    agreement   Spearman's ρ between the two models' similarities of all pairs of `texts` texts
    report      the gate of a task's metric, if there was one
    metrics     metric → (teacher, static), where a task was given
    """

    output: Path
    teacher: str
    architecture: str
    parameters: int
    pooling: str
    tokens: int
    dimensions: int
    normalised: bool
    texts: int
    agreement: float
    report: VerificationReport
    variants: tuple[Variant, ...]
    seconds: float
    metrics: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """In JSON types."""
        return {"format": "static", "same_model": False, **_in_json(self)}


def _in_json(result: ExportResult | StaticResult) -> dict[str, Any]:
    facts = {name: value for name, value in vars(result).items() if name not in ("report", "variants")}
    return {
        **facts,
        "output": str(result.output),
        "metrics": {name: list(values) for name, values in result.metrics.items()},
        "seconds": round(result.seconds, 2),
        "variants": [asdict(variant) for variant in result.variants],
        "verification": result.report.to_dict(),
    }
