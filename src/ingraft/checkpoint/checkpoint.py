"""A folder's weights as one table of tensors: one file or shards with an index, safetensors or pickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from ingraft.checkpoint.header import Header, TensorInfo, read_header
from ingraft.errors import UnusableInput, nearest
from ingraft.files import inside, read_json_object

# In the order in which transformers looks for them.
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Shard:
    """One file of a checkpoint; tensors in the order of their bytes."""

    path: Path
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of one model: shards in the order of their names.

    `index_metadata` is None for a checkpoint of one file without an index.
    """

    folder: Path
    shards: tuple[Shard, ...]
    index_metadata: Mapping[str, object] | None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {info.name: info for shard in self.shards for info in shard.tensors}

    @property
    def pickled(self) -> bool:
        return any(shard.path.suffix == ".bin" for shard in self.shards)

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self)

    @property
    def elements(self) -> int:
        return sum(info.elements for info in self)

    @property
    def dtype(self) -> str:
        """The dtype that most of the floating-point elements have (safetensors' name for it)."""
        count: dict[str, int] = {}
        for info in self:
            count[info.dtype] = count.get(info.dtype, 0) + info.elements
        floating = {dtype: n for dtype, n in count.items() if dtype[0] in "FB" and dtype != "BOOL"}
        return max(floating or count, key=lambda dtype: count[dtype], default="F32")

    def __iter__(self) -> Iterator[TensorInfo]:
        return iter(self.tensors.values())


def find_weights(folder: Path) -> Path | None:
    """The weight file or the shard index that transformers would load from `folder`, or None."""
    for name in WEIGHT_FILES:
        for candidate in (folder / name, folder / f"{name}.index.json"):
            if candidate.is_file():
                return candidate
    return None


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read the headers of the weights in `folder`. Raises UnusableInput for whatever is missing or unsound."""
    found = find_weights(folder)
    if found is None:
        raise UnusableInput(_no_weights(folder))
    if found.suffix != ".json":
        return Checkpoint(folder, (_open_shard(found),), None)
    index = read_json_object(found)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnusableInput(f"{found} has no weight_map.")
    if not all(isinstance(name, str) for name in weight_map.values()):
        raise UnusableInput(f"{found} maps a tensor to something that is no file name.")
    shards = []
    _check_file_names(found, set(weight_map.values()))
    for name in sorted(set(weight_map.values())):
        path = inside(folder, name, named_by=found)
        if not path.is_file():
            here = [p.name for p in folder.iterdir()] if folder.is_dir() else []
            raise UnusableInput(
                f"{found} names the shard {name}, which does not exist{nearest(name, here)}.",
                hint="Download the model again.",
            )
        shards.append(_open_shard(path))
    _check_index(found, weight_map, shards)
    metadata = index.get("metadata")
    return Checkpoint(folder, tuple(shards), metadata if isinstance(metadata, dict) else {})


def _check_file_names(index: Path, names: set[str]) -> None:
    """Shards of one model lie side by side in the output, so each needs a name of its own there."""
    by_file: dict[str, str] = {}
    for name in sorted(names):
        other = by_file.setdefault(PurePosixPath(name).name, name)
        if other != name:
            raise UnusableInput(f"{index} names two shards of the same file name: {other} and {name}.")


def _open_shard(path: Path) -> Shard:
    if path.suffix == ".bin":
        from ingraft.checkpoint.pickled import read_pickled

        header: Header = read_pickled(path)
    else:
        header = read_header(path)
    return Shard(path, header.tensors, header.metadata)


def _check_index(index: Path, weight_map: Mapping[str, str], shards: list[Shard]) -> None:
    found: dict[str, str] = {}
    for shard in shards:
        for info in shard.tensors:
            if info.name in found:
                raise UnusableInput(f"{info.name} stands in two shards: {found[info.name]} and {shard.path.name}.")
            found[info.name] = shard.path.name
    for name, file in weight_map.items():
        if found.get(name) != Path(file).name:
            raise UnusableInput(f"{index} says that {name} is in {file}, which does not hold it.")
    extra = sorted(set(found) - set(weight_map))
    if extra:
        raise UnusableInput(f"{index} does not list {extra[0]}, which is in {found[extra[0]]}.")


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a directory."
    here = sorted(p.name for p in folder.iterdir() if p.is_file())
    listed = ", ".join(here[:6]) + (" …" if len(here) > 6 else "")
    return f"{folder} holds no model.safetensors or pytorch_model.bin (it holds: {listed or 'no files'})."
