"""The ways to a merged model that are compared. Each is a program that is run as a process of its own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """`what` is its row's name; `command` has the places {base}, {adapter} and {output}.

    loads_the_model  it holds the whole model in memory
    """

    key: str
    what: str
    command: tuple[str, ...]
    loads_the_model: bool = False

    def command_for(self, base: Path, adapter: Path, output: Path) -> list[str]:
        return [part.format(base=base, adapter=adapter, output=output) for part in self.command]


def _ingraft(*options: str) -> tuple[str, ...]:
    merge = ("{adapter}", "{output}", "--base", "{base}", "--format", "json")
    return (sys.executable, "-m", "ingraft", "merge", *merge, *options)


def _script(name: str) -> tuple[str, ...]:
    return (sys.executable, str(_HERE / name), "{base}", "{adapter}", "{output}")


COPY = Contender("copy", "cp -r, fsync", ("sh", str(_HERE / "copy.sh"), "{base}", "{output}"))
START_UP = Contender("start-up", "start-up alone: plan, imports", _script("start_up.py"))
PLAN = Contender("ingraft-plan", "ingraft merge --dry-run", _ingraft("--dry-run"))
INGRAFT_UNPROVEN = Contender("ingraft-unproven", "ingraft merge --no-verify", _ingraft("--no-verify"))
INGRAFT = Contender("ingraft", "ingraft merge", _ingraft())
PEFT = Contender("peft", "PEFT: load, merge, save", _script("peft_merge.py"), loads_the_model=True)
SENTENCE_TRANSFORMERS = Contender(
    "sentence-transformers",
    "Sentence Transformers: load, merge, save",
    _script("sentence_transformers_merge.py"),
    loads_the_model=True,
)
MERGES = (INGRAFT_UNPROVEN, INGRAFT, PEFT, SENTENCE_TRANSFORMERS)


def environment() -> dict[str, str]:
    """This process's environment, offline and with nothing said that nobody reads."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
