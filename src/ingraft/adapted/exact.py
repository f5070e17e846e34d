"""The transformer of the unmerged model in the most exact numbers that its adapter runs in."""

from __future__ import annotations

from typing import Any

from ingraft.adapted.load import load_adapted
from ingraft.steps import MergePlan

# PEFT types whose forward pass mixes float32 state in, whatever the model's dtype.
_FLOAT32_ONLY = ("ADAMSS",)


def load_exact(plan: MergePlan) -> Any:
    """The adapted transformer of a plan's only adapter, in float64 where its method can."""
    model: Any = load_adapted(
        plan.adapter.root,
        plan.base.root,
        trust_remote_code=plan.trust_remote_code,
        dtype="float32" if plan.peft_type in _FLOAT32_ONLY else "float64",
    )
    return model[0].model
