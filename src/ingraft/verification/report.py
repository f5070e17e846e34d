"""What a verification found: checks with a measured value and a limit, and figures that explain them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingraft.verification.answers import Answers


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    value, limit  measured and allowed, in the unit that `meaning` names; None for a yes-or-no question
    where         the tensor, file or text that the worst value belongs to
    """

    name: str
    passed: bool
    meaning: str
    value: float | None = None
    limit: float | None = None
    where: str = ""


@dataclass(frozen=True)
class VerificationReport:
    """`answers` are the outputs that the figures on embeddings are about, for a page that shows them; not in JSON."""

    checks: tuple[Check, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers | None = field(default=None, repr=False, compare=False)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    def check(self, name: str) -> Check:
        """The check called `name`; KeyError when there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """In JSON types. JSON has no infinity: null stands for whatever is not a finite number."""
        return {
            "passed": self.passed,
            "checks": [_finite(dataclasses.asdict(check)) for check in self.checks],
            "figures": _finite(self.figures),
        }


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
