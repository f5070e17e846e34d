"""Two model directories side by side: the tensors by name, the files by path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.diff.numbers import NUMBERS, Change, change_of, same_bytes
from ingraft.diff.rank import Rank, rank_of
from ingraft.diff.small_files import FileDiff, State, compare_files, same_content
from ingraft.diff.stored import StoredModel, open_model

Progress = Callable[[int], None]
SCHEMA = 1


@dataclass(frozen=True)
class TensorDiff:
    """One tensor name.

    a, b    (dtype, shape), or None on the side that does not have it
    change  the numbers of a change; None where nothing changed, or where the shapes or dtypes allow no subtraction
    rank    of the difference, for matrices
    """

    name: str
    state: State
    a: tuple[str, tuple[int, ...]] | None
    b: tuple[str, tuple[int, ...]] | None
    change: Change | None = None
    rank: Rank | None = None


@dataclass(frozen=True)
class ModelDiff:
    """Every tensor and every file of two directories; weight files count as equal with their tensors and headers."""

    a: Path
    b: Path
    tensors: tuple[TensorDiff, ...]
    files: tuple[FileDiff, ...]

    @property
    def equal(self) -> bool:
        states = [tensor.state for tensor in self.tensors] + [file.state for file in self.files]
        return all(state == "equal" for state in states)

    def to_dict(self) -> dict[str, Any]:
        """In JSON types; docs/diff.md describes every field."""
        return {
            "schema": SCHEMA,
            "a": str(self.a),
            "b": str(self.b),
            "equal": self.equal,
            "tensors": [_tensor_dict(tensor) for tensor in self.tensors],
            "files": [dataclasses.asdict(file) for file in self.files],
        }


def compare_models(
    a: str | Path, b: str | Path, *, workers: int = 2, progress: Callable[[int], Progress] | None = None
) -> ModelDiff:
    """Compare the model directories (or Hub ids) `a` and `b`; the memory is a few blocks, whatever the models' size.

    `progress` is told the bytes in all, and returns what is told the bytes done.
    Raises UnusableInput when one of them holds no weights or unsound ones.
    """
    left, right = open_model(a), open_model(b)
    names = list(dict.fromkeys([*left.tensors, *right.tensors]))
    sizes = [max(_nbytes(left, name), _nbytes(right, name)) for name in names]
    tell = progress(sum(sizes)) if progress else lambda count: None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with open_files() as files, ThreadPoolExecutor(workers) as pool:

            def compare(name: str, size: int) -> TensorDiff:
                found = _compare_tensor(files, name, left.tensors.get(name), right.tensors.get(name))
                tell(size)
                return found

            jobs = [pool.submit(compare, name, size) for name, size in zip(names, sizes, strict=True)]
            tensors = tuple(job.result() for job in jobs)
    finally:
        torch.set_num_threads(threads)
    states = {tensor.name: tensor.state for tensor in tensors}
    both = (*_weight_files(left, right, states), *compare_files(left.files, right.files))
    return ModelDiff(left.root, right.root, tensors, tuple(sorted(both, key=lambda file: file.path)))


def _nbytes(model: StoredModel, name: str) -> int:
    info = model.tensors.get(name)
    return info.nbytes if info else 0


def _compare_tensor(files: OpenFiles, name: str, a: TensorInfo | None, b: TensorInfo | None) -> TensorDiff:
    if a is None or b is None:
        return TensorDiff(name, "only in a" if a else "only in b", _kind(a), _kind(b))
    if (a.dtype, a.shape) == (b.dtype, b.shape) and same_bytes(files, a, b):
        return TensorDiff(name, "equal", _kind(a), _kind(b))
    if a.shape != b.shape or not {a.dtype, b.dtype} <= NUMBERS.keys():
        return TensorDiff(name, "changed", _kind(a), _kind(b))
    change = change_of(files, a, b)
    rank = rank_of(files, a, b) if change.norm and not change.not_finite else None
    return TensorDiff(name, "changed", _kind(a), _kind(b), change, rank)


def _kind(info: TensorInfo | None) -> tuple[str, tuple[int, ...]] | None:
    return (info.dtype, info.shape) if info else None


def _weight_files(a: StoredModel, b: StoredModel, states: Mapping[str, State]) -> Iterator[FileDiff]:
    for path in sorted({*a.weights, *b.weights}):
        if path not in a.weights or path not in b.weights:
            yield FileDiff(path, "only in a" if path in a.weights else "only in b", "weights")
        elif a.weights[path] != b.weights[path]:
            yield FileDiff(path, "changed", "other tensors, or another order")
        elif any(states[name] != "equal" for name in a.weights[path]):
            yield FileDiff(path, "changed", "its tensors differ")
        elif _same_header(a, b, path):
            yield FileDiff(path, "equal")
        else:
            yield FileDiff(path, "changed", "the same tensors; the header differs")


def _same_header(a: StoredModel, b: StoredModel, path: str) -> bool:
    """Of two files with the same tensors in the same order."""
    if not path.endswith(".safetensors"):
        return same_content(a.root / path, b.root / path)
    starts = [min(model.tensors[name].start for name in model.weights[path]) for model in (a, b)]
    headers = []
    for model in (a, b):
        with (model.root / path).open("rb") as file:
            headers.append(file.read(starts[0]))
    return starts[0] == starts[1] and headers[0] == headers[1]


def _tensor_dict(tensor: TensorDiff) -> dict[str, Any]:
    change = tensor.change
    return {
        "name": tensor.name,
        "state": tensor.state,
        "a": _kind_dict(tensor.a),
        "b": _kind_dict(tensor.b),
        "change": {**dataclasses.asdict(change), "relative": change.relative} if change else None,
        "rank": dataclasses.asdict(tensor.rank) if tensor.rank else None,
    }


def _kind_dict(kind: tuple[str, tuple[int, ...]] | None) -> dict[str, Any] | None:
    return {"dtype": kind[0], "shape": list(kind[1])} if kind else None
