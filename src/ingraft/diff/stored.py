"""What a model directory holds: its tensors, wherever they lie, and its other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ingraft.checkpoint import TensorInfo, find_weights, open_checkpoint, read_header
from ingraft.errors import UnusableInput
from ingraft.hub import local_directory
from ingraft.layout import read_layout

_WEIGHTS = (".safetensors", "pytorch_model.bin")


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
    files = {file.relative_to(root).as_posix(): file for file in _files(root)}
    tensors: dict[str, TensorInfo] = {}
    weights: dict[str, tuple[str, ...]] = {}
    for prefix, file, infos in _weight_files(root, files):
        tensors |= {prefix + info.name: info for info in infos}
        weights[file.relative_to(root).as_posix()] = tuple(prefix + info.name for info in infos)
    if not tensors:
        below = sorted({Path(name).parent.as_posix() for name in files if name.endswith(_WEIGHTS)})
        raise UnusableInput(
            f"{root} holds no weights: no model.safetensors, no pytorch_model.bin, no other safetensors file.",
            hint=f"It holds models in: {', '.join(below[:4])}" if below else "Name a model's directory.",
        )
    return StoredModel(root, tensors, weights, {name: file for name, file in files.items() if name not in weights})


def _files(folder: Path) -> Iterator[Path]:
    """Files below `folder`, without the contents of hidden directories (.git, .cache)."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not path.name.startswith("."):
                yield from _files(path)
        elif path.is_file():
            yield path


def _weight_files(root: Path, files: Mapping[str, Path]) -> Iterator[tuple[str, Path, tuple[TensorInfo, ...]]]:
    """(prefix of the names, file, its tensors): each module's checkpoint as it would be loaded, then safetensors of
    any other name at the root, such as an adapter's."""
    layout = read_layout(root)
    taken: set[Path] = set()
    for folder in dict.fromkeys([layout.transformer_folder, root, *(root / path for path in layout.paths)]):
        if find_weights(folder) is None:
            continue
        prefix = "" if folder == layout.transformer_folder else _prefix(folder.relative_to(root))
        for shard in open_checkpoint(folder).shards:
            taken.add(shard.path)
            yield prefix, shard.path, shard.tensors
    for name, file in files.items():
        if "/" not in name and file.suffix == ".safetensors" and file not in taken:
            yield _prefix(Path(name)), file, read_header(file).tensors


def _prefix(path: Path) -> str:
    return "" if path == Path() else f"{path.as_posix()}/"
