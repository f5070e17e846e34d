"""Find an adapter in a directory and read its config and its tensors' headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.checkpoint import TensorInfo, find_weights, read_header
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.hub import local_directory
from ingraft.layout import MODULES_FILE, read_layout
from ingraft.methods.table import method_for

CONFIG_FILE = "adapter_config.json"
_MOST_NAMED = 5
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class AdapterConfig:
    """`adapter_config.json`; `raw` is all of it, the fields are what every PEFT method has."""

    peft_type: str
    base_model: str | None
    revision: str | None
    task_type: str | None
    modules_to_save: tuple[str, ...]
    raw: Mapping[str, Any]

    def saves_whole(self, module: str) -> bool:
        """Is `module` or one around it in modules_to_save? PEFT compares the ends of names: `classifier` means
        `pre_classifier` too."""
        parts = module.split(".")
        around = [".".join(parts[: count + 1]) for count in range(len(parts))]
        return any(name.endswith(wanted) for name in around for wanted in self.modules_to_save)


@dataclass(frozen=True)
class Adapter:
    """An adapter directory.

    root     the directory that the user named, or the checkpoint below it that is one by itself; a Sentence
             Transformers adapter has its modules.json here
    folder   where adapter_config.json lies: the root, a module's folder or a named sub-folder
    tensors  by key in the file, as `base_model.model.….lora_A.weight`
    """

    root: Path
    folder: Path
    config: AdapterConfig
    weights: Path
    tensors: Mapping[str, TensorInfo]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def name(self) -> str:
        return str(self.root)


def open_adapter(name: str | Path, *, revision: str | None = None) -> Adapter:
    """The adapter in a directory or Hub repository. Raises UnusableInput when there is none, or more than one."""
    root = local_directory(name, role="adapter", revision=revision)
    folder = _find_folder(root)
    # A checkpoint of a run: what it was trained with lies beside it, and not in the run's directory.
    whole = (folder / MODULES_FILE).is_file() and not (root / MODULES_FILE).is_file()
    return _open(folder if whole else root, folder)


def open_adapters(name: str | Path, *, revision: str | None = None) -> tuple[Adapter, ...]:
    """All adapters of a model: one, or one for each adapted transformer behind a Router."""
    root = local_directory(name, role="adapter", revision=revision)
    routed = [root / path for path in read_layout(root).transformers if path]
    with_adapter = [folder for folder in routed if (folder / CONFIG_FILE).is_file()]
    if len(routed) > 1 and with_adapter:
        return tuple(_open(root, folder) for folder in with_adapter)
    return (open_adapter(root),)


def _open(root: Path, folder: Path) -> Adapter:
    config = _read_config(folder / CONFIG_FILE)
    weights = next((folder / file for file in WEIGHT_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise UnusableInput(
            f"{folder} has an {CONFIG_FILE} but no weights: expected {WEIGHT_FILES[0]}.",
            hint="Save the adapter again, or copy the file beside its config.",
        )
    tensors = {info.name: info for info in read_tensors(weights)}
    if not tensors:
        method = method_for(config.raw)  # X-LoRA saves an empty file beside its experts
        if method.route == "refused":
            raise UnusableInput(f"{root}: {method.name} cannot be merged: {method.reason}")
        raise UnusableInput(f"{weights} holds no tensor.", hint="Save the adapter again.")
    return Adapter(root, folder, config, weights, tensors)


def _find_folder(root: Path) -> Path:
    if (root / CONFIG_FILE).is_file():
        return root
    candidates = {root / path for path in read_layout(root).paths if (root / path).is_dir()}
    candidates |= {child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")}
    found = [folder for folder in candidates if (folder / CONFIG_FILE).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        found.sort(key=lambda folder: (len(folder.name), folder))  # checkpoint-500 before checkpoint-1000
        names = ", ".join(str(folder.relative_to(root)) for folder in found[-_MOST_NAMED:])
        if len(found) > _MOST_NAMED:
            names = f"{names} and {len(found) - _MOST_NAMED} more"
        raise UnusableInput(
            f"{root} holds {len(found)} adapters: {names}.", hint=f"Name the one you mean, for example: {found[-1]}"
        )
    weights = find_weights(root) or find_weights(read_layout(root).transformer_folder)
    if weights is not None:
        raise UnusableInput(
            f"{root} is a full model, not an adapter: it has {weights.relative_to(root)} and no {CONFIG_FILE}.",
            hint=f"Nothing to merge. See: ingraft inspect {root}",
        )
    raise UnusableInput(f"{root} has no {CONFIG_FILE}, so it is no PEFT adapter.", hint=f"See: ingraft inspect {root}")


def _read_config(path: Path) -> AdapterConfig:
    raw = read_json_object(path)
    peft_type = raw.get("peft_type")
    if not isinstance(peft_type, str):
        raise UnusableInput(f"{path} names no peft_type, so it is no PEFT adapter's config.")

    def text(key: str) -> str | None:
        value = raw.get(key)
        return value if isinstance(value, str) and value else None

    saved = raw.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise UnusableInput(f"{path}: modules_to_save is {saved!r}, expected a list of module names.")
    return AdapterConfig(
        peft_type=peft_type,
        base_model=text("base_model_name_or_path"),
        revision=text("revision"),
        task_type=text("task_type"),
        modules_to_save=tuple(saved),
        raw=raw,
    )


def read_tensors(weights: Path) -> tuple[TensorInfo, ...]:
    """The tensors of an adapter file, safetensors or pickled."""
    if weights.suffix == ".bin":
        from ingraft.checkpoint.pickled import read_pickled

        return read_pickled(weights).tensors
    return read_header(weights).tensors
