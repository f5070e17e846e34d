"""What a merge did, summed up over its tensors."""

from __future__ import annotations

import pytest

from ingraft.execute import StepFigures
from ingraft.verification.figures import effect_figures


def test_totals() -> None:
    first = StepFigures("a", elements=100, changed=90, base_norm=3.0, delta_norm=0.3, rounding_loss=0.1)
    second = StepFigures("b", elements=50, changed=10, base_norm=4.0, delta_norm=0.4, rounding_loss=0.5)

    found = effect_figures([first, second])

    assert (found["elements_changed"], found["elements_edited"]) == (100, 150)
    assert found["relative_delta"] == pytest.approx(0.1)
    assert found["kept_of_delta"] == pytest.approx(1 - (0.03**2 + 0.2**2) ** 0.5 / 0.5)
    assert [row["tensor"] for row in found["tensors"]] == ["a", "b"]
    assert found["tensors"][1]["rounding_loss"] == 0.5


def test_nothing() -> None:
    found = effect_figures([])

    assert (found["kept_of_delta"], found["relative_delta"], found["tensors"]) == (None, None, [])
