"""The directory of a running training: checkpoints that hold the adapter alone, written and read back as a whole.

It lies beside the output (`adapter-checkpoints/`), survives a run that is killed, and goes when the adapter is there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingraft.errors import CheckFailed, UnusableInput
from ingraft.files import human_bytes, read_json, read_json_object, to_json
from ingraft.machine import free_bytes
from ingraft.training.config import TrainingConfig
from ingraft.training.keys import plain

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

RUN_FILE = "run.json"
# Settings in which a resumed run may differ from the one that was stopped.
_FREE = {"resume", "overwrite", "checkpoints", "merge", "report", "report_to"}
# What a checkpoint holds besides numbers: tokenizer, configs, the trainer's state.
_SMALL_FILES = 32_000_000


@dataclass(frozen=True)
class Run:
    """A run's directory, and the checkpoint to go on from."""

    folder: Path
    resume_from: Path | None = None


def run_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}-checkpoints")


def open_run(config: TrainingConfig, *, files: Mapping[str, str], fingerprint: str) -> Run:
    """The run's directory: a new one, or that of the stopped run which `config.resume` continues.

    files        name → hash of what is trained and measured on
    UnusableInput when checkpoints are in the way, when there are none, or when the stopped run was another one.
    """
    folder = run_folder(config.output)
    identity = {"config": _compared(config), "files": dict(files), "base": fingerprint}
    if config.resume:
        return _resumed(folder, identity)
    clear_run(config)
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text(to_json(identity), encoding="utf-8")
    return Run(folder)


def clear_run(config: TrainingConfig) -> None:
    """Remove what an earlier run left, when `config.overwrite` allows it; UnusableInput when it does not."""
    folder = run_folder(config.output)
    if not folder.exists():
        return
    if not (folder / RUN_FILE).is_file():
        raise UnusableInput(
            f"{folder} is in the way and holds no checkpoints of ingraft.", hint="Name another --output."
        )
    if not config.overwrite:
        raise UnusableInput(
            f"{folder} holds the checkpoints of a run that was stopped.",
            hint="Continue it with --resume, or begin anew with --overwrite.",
        )
    shutil.rmtree(folder)


def _compared(config: TrainingConfig) -> dict[str, Any]:
    settings = {name: value for name, value in plain(config).items() if name not in _FREE}
    return settings | {"checkpoints.best": config.checkpoints.best}  # which sets rows aside


def _resumed(folder: Path, identity: Mapping[str, Any]) -> Run:
    if not (folder / RUN_FILE).is_file():
        raise UnusableInput(f"{folder} holds no run to resume.", hint="Begin one without --resume.")
    stopped = read_json_object(folder / RUN_FILE)
    now = json.loads(to_json(identity))
    for part, name in (("config", "the setting"), ("files", "the data")):
        before, after = stopped.get(part), now[part]
        if not isinstance(before, dict):
            raise UnusableInput(f"{folder / RUN_FILE} says nothing of {name}.", hint="Begin anew with --overwrite.")
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                said = f": {before.get(key)} then, {after.get(key)} now" if part == "config" else ""
                raise UnusableInput(
                    f"{folder} is of a run with another state of {name} {key}{said}.",
                    hint="Resume with what it was started with, or begin anew with --overwrite.",
                )
    if stopped.get("base") != now["base"]:
        raise UnusableInput(f"{folder} is of a run on a base model with other weights.")
    return Run(folder, last_checkpoint(folder))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    found = {int(name[1]): path for path in folder.iterdir() if (name := re.fullmatch(r"checkpoint-(\d+)", path.name))}
    return next((found[step] for step in sorted(found, reverse=True) if _is_whole(found[step])), None)


def _is_whole(checkpoint: Path) -> bool:
    """The trainer writes its state last. A file cut off by a full disk is no JSON."""
    try:
        return (
            isinstance(read_json(checkpoint / "trainer_state.json"), dict) and (checkpoint / "optimizer.pt").is_file()
        )
    except UnusableInput:
        return False


def check_room(folder: Path, trainable: int) -> None:
    """UnusableInput when the disk cannot hold one more checkpoint; those that are there stay.

    trainable  parameters: in float32, with the two moments that the optimizer keeps of each
    """
    needed, free = 12 * trainable + _SMALL_FILES, free_bytes(folder)
    if needed > free:
        raise UnusableInput(
            f"The disk of {folder} is too small for another checkpoint: {human_bytes(needed)} are needed, "
            f"{human_bytes(free)} are free.",
            hint="Free some and continue with --resume, or write none with --checkpoints.every 0.",
        )


def save_checkpoint(model: SentenceTransformer, folder: Path) -> None:
    """The adapter as in an adapter's directory, and the modules around the transformer; no card, no base weights."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), create_model_card=False)


def load_checkpoint(model: SentenceTransformer, folder: Path, adapter_name: str) -> None:
    """Set what is trained in `model` to what `folder` holds. CheckFailed when it does not hold all of that."""
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    transformer = model.transformers_model
    assert transformer is not None
    state = {
        name.removeprefix("base_model.model."): value
        for name, value in load_file(folder / "adapter_model.safetensors").items()
    }
    set_peft_model_state_dict(transformer, state, adapter_name=adapter_name)
    now = transformer.get_adapter_state_dict(adapter_name)
    if set(now) != set(state) or not all(torch.equal(now[name].cpu(), state[name].to(now[name].dtype)) for name in now):
        raise CheckFailed(f"{folder} does not hold the adapter that is being trained.")
    paths = {int(entry["idx"]): entry["path"] for entry in read_json(folder / "modules.json")}
    for number, module in enumerate(model):
        weights = folder / paths[number] / "model.safetensors"
        beside = not any(inner is transformer for inner in module.modules())
        if beside and any(parameter.requires_grad for parameter in module.parameters()):
            module.load_state_dict(load_file(weights))
