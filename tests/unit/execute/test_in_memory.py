"""When PEFT's own merge is taken, and when its layer is asked instead."""

from __future__ import annotations

import pytest
import torch

from ingraft.execute.in_memory import _agree


@pytest.mark.parametrize(("error", "same"), [(0.0, True), (1e-9, True), (1e-4, False), (float("nan"), False)])
def test_a_merge_is_the_forward_pass_to_rounding_alone(error: float, same: bool) -> None:
    answer = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert _agree(answer * (1 + error), answer) is same
