"""docs/interop.md, written from what the readers answered."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from interop.table import NOT_RUN

if TYPE_CHECKING:
    from interop.run import Answer

_HEAD = """# Interoperability

Written by `make interop`. Real readers and servers, each in an environment of its own, read what `ingraft merge`
writes; their vectors are compared with those of sentence-transformers {own} for the same model. Everything computes in
float32 on the CPU.

- **difference**: ‖theirs − ours‖ / ‖ours‖ over seven texts that fit; allowed is {allowed:.0e}, for rounding in another
  order of summation. The **adapter's effect**, ‖base − merged‖ / ‖merged‖, is what a reader would be off by that read
  the base.
- **long text**: the same for one text that is longer than the model reads, so that it is cut; shown, not judged:
  who cuts elsewhere differs here.
- **doctor**: what `ingraft doctor` says of the folder before anybody reads it. A reader that does not start where it
  says `will not start` is as expected; one that starts there, or does not start elsewhere, fails the run.

The encoder is all-MiniLM-L6-v2 with a LoRA on every linear layer, mean pooling. The decoder is a Qwen3 with random
weights, a rotary base of 1,000,000 and last-token pooling. `base + adapter` is the unmerged adapter, put on the base by
the reader itself; older releases get the base as `ingraft doctor BASE --fix` rewrites it.
"""


def write_page(answers: Sequence[Answer], page: Path, allowed: float) -> None:
    """One table for each model."""
    parts = [_HEAD.format(allowed=allowed, own=importlib.metadata.version("sentence-transformers"))]
    for model in dict.fromkeys(answer.model for answer in answers):
        own = [answer for answer in answers if answer.model == model]
        parts.append(f"## {model}\n\nAdapter's effect: {own[0].effect:.2f}\n")
        parts.append("| reader | what it read | difference | long text | doctor |\n| --- | --- | ---: | ---: | --- |")
        parts[-1] += "".join(f"\n{_row(answer)}" for answer in own) + "\n"
    parts.append("## Versions\n")
    parts.append("| reader | with |\n| --- | --- |" + "".join(f"\n{row}" for row in _versions(answers)) + "\n")
    parts.append(
        f"Not run: {', '.join(NOT_RUN)}. What [serving.md](serving.md) says of them is taken from their sources.\n\n"
        f"{date.today().isoformat()}"
    )
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _row(answer: Answer) -> str:
    if answer.error:
        numbers = f"does not start: `{_short(answer.error)}` |"
    else:
        numbers = f"{answer.difference:.1e} | {answer.long:.1e}"
    failed = "" if answer.passed else " **FAILED**"
    return f"| {answer.reader} | {answer.what} | {numbers} | {answer.predicted or 'no rules'}{failed} |"


def _short(error: str) -> str:
    text = error.replace("|", "\\|").replace("`", "'")
    return text if len(text) <= 110 else f"{text[:109]}…"


def _versions(answers: Sequence[Answer]) -> list[str]:
    found = {answer.reader: answer.versions for answer in answers if answer.versions}
    return [f"| {name} | {', '.join(f'{k} {v}' for k, v in versions.items())} |" for name, versions in found.items()]
