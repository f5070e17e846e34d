"""A commented config to start from, after a look at the data."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.training.config import TrainingConfig
from ingraft.training.data import TrainingData, read_training_data
from ingraft.training.keys import Key, keys_of, plain
from ingraft.training.losses import loss_name
from ingraft.yaml_text import import_yaml

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_TASKS = {
    "pairs": "retrieval: find the second text from the first",
    "scored pairs": "similarity: order pairs of texts as their scores do",
    "labelled pairs": "pair classification: tell pairs of label 1 from those of label 0",
    "labelled texts": "classification: texts of one class close together",
}


@dataclass(frozen=True)
class Starter:
    """`text` is the YAML; `data` and `task` say what was found in the file."""

    text: str
    task: str
    data: TrainingData


def starter(data: str, *, model: str = MODEL, output: str = "adapter") -> Starter:
    """The starter config for the rows of `data`. Raises UnusableInput when they cannot be used."""
    import_yaml()
    found = read_training_data(data, skip_bad_rows=True)
    chosen: dict[str, Any] = {"model": model, "data": data, "output": output}
    if found.by_position:
        chosen["columns"] = {role: column for column, role in found.roles.items()}
    # A batch holds the wrong answers: at least a few batches per epoch are needed for a loss that means something.
    chosen["batch_size"] = next((size for size in (64, 32, 16, 8) if len(found) >= 8 * size), 4)
    chosen["epochs"] = 1.0 if len(found) >= 1_000 else 3.0
    task = _TASKS[found.kind]
    lines = [
        f"# {found.path.name}: {len(found):,} rows of {', '.join(found.roles)}.",
        f"# Task: {task}. Loss: {loss_name(found.kind)}.",
        *(f"# Note: {note}." for note in found.notes),
        "# Run it with: ingraft train THIS-FILE. A line that begins with # shows a default.",
    ]
    return Starter("\n".join([*lines, *_settings(chosen)]) + "\n", task, found)


def _settings(chosen: dict[str, Any]) -> list[str]:
    lines, group = [], ""
    for key in keys_of(TrainingConfig):
        *outer, name = key.path
        if outer and outer[0] != group:
            lines += ["", f"{outer[0]}:"]
        group = outer[0] if outer else ""
        indent = "  " * len(outer)
        lines += [*([] if outer else [""]), f"{indent}# {key.doc}", f"{indent}{_setting(key, name, chosen)}"]
    return lines


def _setting(key: Key, name: str, chosen: dict[str, Any]) -> str:
    if key.name in chosen:
        return f"{name}: {_value(chosen[key.name])}"
    # Nested defaults are written out, so that their group is no empty mapping.
    mark = "" if len(key.path) > 1 else "# "
    return f"{mark}{name}: {_value(None if key.default is MISSING else key.default)}"


def _value(value: Any) -> str:
    """A value in one line, as YAML reads it back."""
    value = plain(value)
    if isinstance(value, str):
        text: str = import_yaml().safe_dump(value, allow_unicode=True, width=10_000).splitlines()[0]
        return text
    return json.dumps(value, ensure_ascii=False)


def write_starter(starter: Starter, path: Path, *, overwrite: bool = False) -> None:
    """Write the config to `path`; UnusableInput when something is there and `overwrite` is not set."""
    if path.exists() and not overwrite:
        raise UnusableInput(f"{path} exists.", hint="Name another file with --config, or replace it with --overwrite.")
    path.write_text(starter.text, encoding="utf-8")
