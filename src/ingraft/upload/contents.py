"""What of a directory is to be uploaded, and whether it is what its manifest says. Asks no server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

from ingraft.adapter.adapter import read_tensors
from ingraft.card import CARD
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.integrity import verify_manifest
from ingraft.layout import Layout, read_layout
from ingraft.output_files import MANIFEST, is_weight_file

Kind: TypeAlias = Literal["merged model", "export", "adapter"]

_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_ADAPTER_FILES = ("adapter_config.json", *_ADAPTER_WEIGHTS)
# What a Trainer keeps to go on with; pickles that nobody who loads the model wants to open.
_TRAINER_FILES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "training_args.bin", "scaler.pt")


@dataclass(frozen=True)
class Contents:
    """A directory that may be uploaded.

    files     paths relative to `root`, with their sizes in bytes
    left_out  files that stay here
    checked   files whose hash is the manifest's
    """

    root: Path
    kind: Kind
    layout: Layout
    files: Mapping[str, int]
    left_out: tuple[str, ...]
    checked: int
    manifest: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        return sum(self.files.values())

    @property
    def has_card(self) -> bool:
        return CARD in self.files


def open_contents(root: Path) -> Contents:
    """Read, sort and check the directory.

    UnusableInput when it holds an adapter and merged weights, or an adapter's weights twice, when a file is not what
    the manifest says, or when it is a model without a manifest.
    """
    if not root.is_dir():
        raise UnusableInput(
            f"{root} is no directory; expected a merged model, an export or an adapter.", hint="Name its directory."
        )
    files, left_out = _listed(root)
    layout = read_layout(root)
    adapter = [name for name in files if Path(name).name in _ADAPTER_FILES]
    weights = [name for name in files if _is_model_weights(name, layout)]
    if adapter and weights:
        raise UnusableInput(
            f"{root} holds an adapter ({adapter[0]}) and whole weights ({weights[0]}): it would be applied twice.",
            hint="Upload either the adapter's directory or the merged model's.",
        )
    manifest = read_json_object(root / MANIFEST) if MANIFEST in files else {}
    if adapter:
        _check_adapter_weights(root, adapter)
        kind: Kind = "adapter"
    elif not manifest:
        raise UnusableInput(
            f"{root} has no {MANIFEST}; only what ingraft has made can be checked before it is uploaded.",
            hint=f"Anything else: hf upload REPO_ID {root}",
        )
    else:
        kind = "export" if "export" in manifest else "merged model"
    checked = _check(root) if manifest else 0
    return Contents(root, kind, layout, files, left_out, checked, manifest)


def _listed(root: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Files with their sizes, and those that stay: hidden ones, a Trainer's state, its checkpoints."""
    files: dict[str, int] = {}
    left_out = []
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder).relative_to(root)
        stay = {name for name in folders if _is_other_folder(name)}
        left_out += [f"{(here / name).as_posix()}/" for name in sorted(stay)]
        folders[:] = sorted(set(folders) - stay)
        for name in sorted(names):
            path = (here / name).as_posix()
            if _stays(PurePosixPath(path)):
                left_out.append(path)
            else:
                files[path] = (root / path).stat().st_size
    if not files:
        found = f"holds nothing to upload, {', '.join(left_out[:3])} aside" if left_out else "is empty"
        raise UnusableInput(f"{root} {found}.", hint="Name the directory of a merged model, an export or an adapter.")
    return files, tuple(left_out)


def weights_beside(contents: Contents, there: Iterable[str]) -> list[str]:
    """Files of weights among `there` that an upload of `contents` would leave beside its own, not replace."""
    others = (PurePosixPath(name) for name in sorted(set(there) - set(contents.files)))
    return [str(path) for path in others if is_weight_file(path) and not _stays(path)]


def _stays(path: PurePosixPath) -> bool:
    """Is `path` nothing of a model: hidden, a Trainer's state or in its checkpoints?"""
    in_folder = any(_is_other_folder(name) for name in path.parts[:-1])
    return in_folder or path.name.startswith((".", "rng_state")) or path.name in _TRAINER_FILES


def _is_other_folder(name: str) -> bool:
    return name.startswith((".", "checkpoint-")) or name == "__pycache__"


def _check_adapter_weights(root: Path, adapter: Sequence[str]) -> None:
    """Each adapter has its weights, and has them once: which of two a loader would take, nobody can tell."""
    weights = [PurePosixPath(name) for name in adapter if PurePosixPath(name).name in _ADAPTER_WEIGHTS]
    if not weights:
        raise UnusableInput(
            f"{root} has an adapter_config.json but no adapter weights.", hint="Save the adapter again."
        )
    folders = [path.parent for path in weights]
    twice = [str(path) for path in weights if folders.count(path.parent) > 1]
    if twice:
        raise UnusableInput(
            f"{root} holds {' and '.join(twice[:2])}: two sets of weights of one adapter.",
            hint="Move the one that was not trained last elsewhere.",
        )
    for name in weights:
        read_tensors(root / name)  # refuses a file that is cut off or damaged


def _is_model_weights(name: str, layout: Layout) -> bool:
    """A transformer's own weights, in torch's formats or as a graph; not an adapter's, nor a Dense module's."""
    path = Path(name)
    if path.suffix in (".onnx", ".xml", ".gguf"):
        return True
    if path.parent != Path(layout.transformer):
        return False
    return path.name.startswith(("model", "pytorch_model")) and path.suffix in (".safetensors", ".bin")


def _check(root: Path) -> int:
    """Compare every file with the manifest, the card excepted, and return how many were compared."""
    checks = verify_manifest(root)
    for check in checks:
        if not check.passed:
            raise UnusableInput(
                f"{root} is not what {MANIFEST} says was published: {check.where or check.meaning}.",
                hint="Merge or export again; only the model card may be edited.",
            )
    return int(next(check.value for check in checks if check.name == "published files") or 0)
