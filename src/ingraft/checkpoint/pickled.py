"""`pytorch_model.bin` as byte ranges: what is in it and where, with no code of it run.

Its tensors are streamed like those of a safetensors file. torch is not needed for that.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ingraft.checkpoint.header import DTYPE_BITS, Header, TensorInfo, is_shape, read_header
from ingraft.checkpoint.inert import Call, Global, NotInert
from ingraft.checkpoint.torch_files import (
    DTYPES,
    PARAMETERS,
    SIZE,
    TENSORS,
    WITH_DTYPE,
    CannotStream,
    Storage,
    TorchFile,
    read_torch_file,
)
from ingraft.errors import UnusableInput, first_line

if TYPE_CHECKING:
    from torch import Tensor

MAX_GROWTH = 10  # how many times as large as its file a converted one may be: views can repeat what is stored once


@dataclass(frozen=True)
class _View:
    """A tensor as it was pickled: elements of the bytes [start, stop) of its file, from element `offset` on."""

    dtype: str
    start: int
    stop: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool
    negated: bool

    @property
    def item(self) -> int:
        return DTYPE_BITS[self.dtype] // 8

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.item

    @property
    def reach(self) -> int:
        """How many elements of the storage it needs."""
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((size - 1) * by for size, by in zip(self.shape, self.strides, strict=True))

    @property
    def is_stored(self) -> bool:
        """Do its numbers lie in the file as they are, one behind the other?"""
        if self.conjugated or self.negated:
            return False
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return 0 in self.shape
            expected *= size
        return True

    def info(self, name: str, path: Path) -> TensorInfo:
        start = self.start + (self.offset * self.item if self.nbytes else 0)
        return TensorInfo(name, self.dtype, self.shape, path, start, start + self.nbytes)


def read_pickled(path: Path) -> Header:
    """Tensors of the pickled state dict `path`. UnusableInput when it holds anything else, code above all."""
    try:
        with path.open("rb") as file:
            found = read_torch_file(file)
        views = {name: _view(name, value, found) for name, value in _state_dict(path, found).items()}
        strange = [name for name, view in views.items() if not view.is_stored]
        if strange and found.is_archive:
            view = views[strange[0]]
            meant = ", conjugated" * view.conjugated + ", negated" * view.negated
            raise CannotStream(f"{strange[0]:.200} ({view.dtype}, strides {view.strides}{meant})")
        if strange:
            return _converted(path, views)
    except CannotStream as error:
        raise UnusableInput(f"{path} holds {error}, which cannot be streamed.", hint=_CONVERT) from None
    except NotInert as error:
        raise UnusableInput(
            f"{path} holds more than tensors ({first_line(error):.80}): unpickling it would run code, so it was not "
            "loaded. Ask its author for a safetensors file."
        ) from None
    except FileNotFoundError:
        raise UnusableInput(f"{path} does not exist.") from None
    except _BROKEN as error:
        reason = first_line(error).rstrip(".")
        raise UnusableInput(f"{path} cannot be read: {reason:.200}.", hint="Download it again.") from None
    tensors = [view.info(name, path) for name, view in views.items()]
    return Header(tuple(sorted(tensors, key=lambda info: (info.start, info.name))), {"format": "pt"})


_CONVERT = "Convert it once: load it with transformers and save_pretrained(..., safe_serialization=True)."
# What a broken archive or pickle leads to. NotImplementedError: an archive of a later format.
_BROKEN = (
    zipfile.BadZipFile, pickle.UnpicklingError, struct.error, OSError, EOFError, ValueError, TypeError, LookupError,
    AttributeError, OverflowError, NotImplementedError,
)  # fmt: skip


def _state_dict(path: Path, found: TorchFile) -> dict[str, Any]:
    state = found.value
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Call) for name, value in state.items()
    ):
        raise UnusableInput(f"{path} is not a state dict of tensors.")
    return state


def _view(name: str, value: Any, found: TorchFile) -> _View:
    """Raises CannotStream for a tensor without numbers of its own, EOFError for one that reaches out of its bytes."""
    name.encode()  # half a surrogate pair is no text: a ValueError
    while _function(value) in PARAMETERS:
        value = value.arguments[0]
    function = _function(value)
    if function not in TENSORS:
        raise CannotStream(f"{name:.200}, a tensor of another kind (sparse, quantised, …)")
    storage, offset, shape, strides = value.arguments[:4]
    if not isinstance(storage, Storage):
        raise TypeError(f"{name:.200} has no storage")
    start, stop = found.places[storage.key]
    item = DTYPE_BITS[storage.dtype] // 8
    start, last = start + storage.first * item, start + (storage.first + storage.count) * item
    metadata = (*value.arguments[TENSORS[function] :], {})[0] or {}
    view = _View(
        dtype=DTYPES[value.arguments[6].name] if function == WITH_DTYPE else storage.dtype,
        start=start,
        stop=last,
        offset=offset,
        shape=_numbers(shape),
        strides=_numbers(strides),
        conjugated=bool(metadata.get("conj")),
        negated=bool(metadata.get("neg")),
    )
    if not is_shape(view.shape) or not is_shape((offset,)) or len(view.shape) != len(view.strides):
        raise ValueError(f"{name:.200} has no valid shape")
    if last > stop or start + view.reach * view.item > last:
        raise EOFError(f"it is cut off within {name:.200}")
    return view


def _function(value: Any) -> Global | None:
    return value.function if isinstance(value, Call) and isinstance(value.function, Global) else None


def _numbers(value: Any) -> tuple[int, ...]:
    """A tuple of counts, also as the torch.Size that a pickle would make of one."""
    if _function(value) == SIZE:
        (value,) = value.arguments
    if not isinstance(value, tuple) or not all(is_shape((number,)) for number in value):
        raise TypeError("a shape or stride is no tuple of numbers")
    return value


def _converted(path: Path, views: Mapping[str, _View]) -> Header:
    """The header of a temporary safetensors file with the numbers of `views`; it is gone when the process ends."""
    import atexit
    import shutil
    import tempfile

    from safetensors.torch import save_file

    declared, size = sum(view.nbytes for view in views.values()), path.stat().st_size
    if declared > MAX_GROWTH * size:
        raise UnusableInput(f"{path} has {size:,} bytes, and its tensors repeat them to {declared:,}.", hint=_CONVERT)
    folder = Path(tempfile.mkdtemp(prefix="ingraft-pickled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    converted = folder / f"{path.stem}.safetensors"
    with path.open("rb") as file:
        save_file({name: _tensor(file, view) for name, view in views.items()}, converted, metadata={"format": "pt"})
    return read_header(converted)


def _tensor(file: IO[bytes], view: _View) -> Tensor:
    import torch

    dtype = getattr(torch, next(name for name, stored in DTYPES.items() if stored == view.dtype))
    if not view.reach:
        return torch.empty(view.shape, dtype=dtype)
    file.seek(view.start + view.offset * view.item)
    stored = bytearray(file.read((view.reach - view.offset) * view.item))
    tensor = torch.frombuffer(stored, dtype=dtype).as_strided(view.shape, view.strides)
    tensor = tensor.conj().resolve_conj() if view.conjugated else tensor
    return (tensor.neg() if view.negated else tensor).clone(memory_format=torch.contiguous_format)
