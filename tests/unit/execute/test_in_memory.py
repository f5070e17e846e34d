"""When PEFT's own merge is taken, and when its layer is asked instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ingraft.adapted import exact
from ingraft.errors import UnusableInput
from ingraft.execute.in_memory import _agree, merged_parameters
from ingraft.steps import IN_MEMORY


@pytest.mark.parametrize(("error", "same"), [(0.0, True), (1e-9, True), (1e-4, False), (float("nan"), False)])
def test_a_merge_is_the_forward_pass_to_rounding_alone(error: float, same: bool) -> None:
    answer = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert _agree(answer * (1 + error), answer) is same


class Unfinished(nn.Module):
    """A layer of PEFT's that was made from a config without everything that it takes."""

    def get_base_layer(self) -> nn.Module:
        return nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        raise KeyError("default")


def test_layer_that_fails_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    edit = SimpleNamespace(parameter="a.weight", kind="linear", formula=IN_MEMORY)
    plan: Any = SimpleNamespace(edits=lambda: [edit], adapter=SimpleNamespace(name="the-adapter"))
    monkeypatch.setattr(exact, "load_exact", lambda plan: nn.ModuleDict({"a": Unfinished()}))

    with pytest.raises(UnusableInput, match="the-adapter: PEFT cannot merge it: no tensor default"):
        merged_parameters(plan)
