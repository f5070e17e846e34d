"""Can a merge be proven here? Known before it begins, and without torch where PEFT is installed."""

from __future__ import annotations

from importlib.util import find_spec

from ingraft.steps import MergePlan


def check_provable(plan: MergePlan) -> None:
    """UnusableInput when the proof will ask PEFT and it is not installed: known before the long work, not after it."""
    if find_spec("peft") is not None:
        return
    from ingraft.verification.truth import asks_peft

    if any(asks_peft(edit) for edit in plan.edits()):
        from ingraft.adapted.keys import require_peft

        require_peft()
