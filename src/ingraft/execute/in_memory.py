"""The second route: load the base, let PEFT merge, and take over only the parameters that it changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ingraft.steps import IN_MEMORY, MergePlan


def merged_parameters(plan: MergePlan) -> Mapping[str, Tensor]:
    """float32 values of the parameters that the plan wants from PEFT, by the running model's names."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    from ingraft.adapted import load_adapted

    wanted = {edit.parameter for edit in plan.edits() if edit.formula == IN_MEMORY}
    model = load_adapted(plan.adapter.root, plan.base.root, trust_remote_code=plan.trust_remote_code)
    merged: dict[str, Tensor] = {}
    with torch.no_grad():
        running: Any = model[0]
        for name, layer in running.model.named_modules():
            if not isinstance(layer, BaseTunerLayer):
                continue
            layer.merge()
            base = layer.get_base_layer()
            for part in ("weight", "bias"):
                value = getattr(base, part, None)
                if value is not None and f"{name}.{part}" in wanted:
                    merged[f"{name}.{part}"] = value.detach()
    return merged
