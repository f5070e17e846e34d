"""What a model directory holds: its tensors, wherever they lie, and its other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint import TensorInfo, find_weights, open_checkpoint, read_header
from ingraft.errors import UnusableInput
from ingraft.hub import local_directory
from ingraft.layout import read_layout


@dataclass(frozen=True)
class StoredModel:
    """One side of a comparison.

    tensors  by name; those outside the transformer's folder as `2_Dense/linear.weight`, so that a transformer is
             compared with a transformer whether it lies at the root or in a folder of its own
    weights  path in the directory → the names of the tensors in that file
    files    every other file, by its path in the directory
    """

    root: Path
    tensors: Mapping[str, TensorInfo]
    weights: Mapping[str, tuple[str, ...]]
    files: Mapping[str, Path]


def open_model(path: str | Path) -> StoredModel:
    """Read the headers of all weights in `path`, a directory or a Hub id. Raises UnusableInput where there are none."""
    root = local_directory(path, role="model")
    tensors: dict[str, TensorInfo] = {}
    weights: dict[str, list[str]] = {}
    files = {file.relative_to(root).as_posix(): file for file in _files(root)}
    converted: set[Path] = set()
    for prefix, found in _weight_files(root, files):
        for file, infos in found.items():
            names = weights.setdefault(file.relative_to(root).as_posix(), [])
            converted.add(file)
            for info in infos:
                tensors[prefix + info.name] = info
                names.append(prefix + info.name)
    if not tensors:
        raise UnusableInput(
            f"{root} holds no weights: no model.safetensors, no pytorch_model.bin, no other safetensors file.",
            hint="Name the directory of a model or of an adapter.",
        )
    others = {name: file for name, file in files.items() if file not in converted}
    return StoredModel(root, tensors, {file: tuple(names) for file, names in weights.items()}, others)


def _files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, without the contents of hidden directories (.git, .cache)."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith("."):
                yield from _files(path)
        elif path.is_file():
            yield path


def _weight_files(
    root: Path, files: Mapping[str, Path]
) -> Iterator[tuple[str, Mapping[Path, tuple[TensorInfo, ...]]]]:
    """(prefix of the names, file → its tensors): checkpoints as they would be loaded, then safetensors of any name."""
    transformer = read_layout(root).transformer_folder
    taken: set[Path] = set()
    for folder in sorted({root, *(file.parent for file in files.values())}):
        if find_weights(folder) is None:
            continue
        shards = {shard.path: shard.tensors for shard in open_checkpoint(folder).shards}
        taken.update(shards)
        yield "" if folder == transformer else _prefix(folder.relative_to(root)), shards
    for name, file in files.items():
        if file.suffix == ".safetensors" and file not in taken:
            yield _prefix(Path(name)), {file: read_header(file).tensors}


def _prefix(path: Path) -> str:
    return "" if path == Path() else f"{path.as_posix()}/"
