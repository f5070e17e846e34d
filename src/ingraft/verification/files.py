"""The small files of a merged model: each is byte for byte what the plan carries or writes."""

from __future__ import annotations

from pathlib import Path

from ingraft.steps import MergePlan
from ingraft.verification.report import Check

# The model card may be extended by its owner; it changes nothing that the model computes.
_FREE = ("README.md",)


def verify_files(plan: MergePlan, folder: Path) -> tuple[Check, ...]:
    """Compare configs, tokenizer and module weights in `folder` with their sources."""
    differing = differing_files(plan, folder)
    expected = len(plan.carried) + len(plan.written)
    return (
        Check(
            "files",
            not differing,
            "configs, tokenizer and the other modules are those of the adapter's directory or the base",
            expected - len(differing),
            expected,
            ", ".join(differing[:3]),
        ),
    )


def differing_files(plan: MergePlan, folder: Path) -> list[str]:
    """Paths of the small files that are missing in `folder` or are not what the plan carries or writes."""
    expected = {file.path: file.source.read_bytes() for file in plan.carried}
    expected |= {file.path: file.text.encode("utf-8") for file in plan.written}
    return [
        path
        for path, content in sorted(expected.items())
        if Path(path).name not in _FREE and not ((folder / path).is_file() and (folder / path).read_bytes() == content)
    ]
