"""What must hold of a merged model that is written and not published yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.execute import Execution, StepFigures
from ingraft.progress import Progress
from ingraft.steps import MergePlan
from ingraft.verification.report import Check, VerificationReport


def refuse_no_change(plan: MergePlan, done: Execution) -> None:
    """A merge whose result is the base is a failure, however it came about."""
    if plan.count("add") or done.changed:
        return
    if done.moved:
        raise UnusableInput(
            "The merged model would equal the base: the stored dtype cannot hold any of the adapter's delta.",
            hint="Merge with --dtype float32.",
        )
    raise UnusableInput(
        f"The merged model would equal the base: {plan.adapter.name} changes nothing.",
        hint="The adapter was never trained, its second matrices are all zero, or its scale is (lora_alpha 0).",
    )


def proven(
    plan: MergePlan,
    folder: Path,
    checks: tuple[Check, ...],
    figures: Sequence[StepFigures],
    *,
    embeddings: bool,
    shown: Progress,
) -> VerificationReport:
    """The whole proof of what was written to `folder`. Raises CheckFailed."""
    from ingraft.verification.figures import effect_figures

    report = VerificationReport(checks, effect_figures(figures))
    if embeddings and report.passed:
        shown.begin("embeddings", 0)
        report = with_embeddings(report, plan, folder)
        shown.end()
    if not report.passed:
        raise CheckFailed(_failure(report), hint="Nothing was published. Please report this as a bug of ingraft.")
    return report


def with_embeddings(
    report: VerificationReport,
    plan: MergePlan,
    folder: Path,
    adapter: str | Path | None = None,
    texts: Sequence[str] | None = None,
    task: Mapping[str, Any] | None = None,
) -> VerificationReport:
    """`report` and what base, base + adapter and the model in `folder` answer to `texts` (default: ours) and `task`."""
    from ingraft.verification.embeddings import embedding_parity

    parity = embedding_parity(
        folder,
        adapter or plan.adapter.root,
        plan.base.root,
        texts=list(texts) if texts else None,
        task=task,
        trust_remote_code=plan.trust_remote_code,
    )
    checks = (*report.checks, *parity.checks)
    return VerificationReport(checks, {**report.figures, **parity.figures()}, parity.answers)


def _failure(report: VerificationReport) -> str:
    check = report.failed[0]
    measured = (
        f": {check.value:.3g}, allowed {check.limit:.3g}" if check.value is not None and check.limit is not None else ""
    )
    where = f" ({check.where})" if check.where else ""
    return f"The proof failed: {check.name}{measured}{where}."
