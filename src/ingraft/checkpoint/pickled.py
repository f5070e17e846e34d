"""`pytorch_model.bin` as byte ranges: what is in it and where, with no code of it run.

A file that torch ≥ 1.6 wrote is a zip archive with every storage uncompressed in it, so its tensors can be streamed
like those of a safetensors file. torch unpickles it with `weights_only=True` into fake tensors that know their
storage's offset in the file.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.checkpoint.header import Header, TensorInfo
from ingraft.errors import UnusableInput, first_line

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
}  # fmt: skip


def read_pickled(path: Path) -> Header:
    """Tensors of the pickled state dict `path`. UnusableInput when it holds anything else, code above all."""
    import zipfile

    from torch._subclasses.fake_tensor import FakeTensorMode

    if path.stat().st_size < 8:
        raise UnusableInput(f"{path} is no checkpoint: it has {path.stat().st_size} bytes.", hint="Download it again.")
    try:
        if not zipfile.is_zipfile(path):
            return _read_legacy(path)
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    # NotImplementedError is how zipfile refuses an archive of a later format: unusable input, like a broken one.
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _unreadable(path, error) from None
    if compressed:
        raise UnusableInput(f"{path} was packed again with compression, so it cannot be streamed.", hint=_CONVERT)
    try:
        with FakeTensorMode():
            state = _load(path)
    except pickle.UnpicklingError:
        raise UnusableInput(_UNSAFE.format(path=path)) from None
    tensors = []
    for name, value in _state_dict(path, state).items():
        storage_start = getattr(value.untyped_storage(), "_checkpoint_offset", None)
        dtype = _DTYPES.get(str(value.dtype).removeprefix("torch."))
        if storage_start is None or dtype is None or not value.is_contiguous():
            raise UnusableInput(
                f"{path}: {name} ({value.dtype}, strides {value.stride()}) cannot be streamed.", hint=_CONVERT
            )
        start = storage_start + value.storage_offset() * value.element_size()
        stop = start + value.numel() * value.element_size()
        if stop > path.stat().st_size:
            raise UnusableInput(f"{path} is cut off within {name}.", hint="Download it again.")
        tensors.append(TensorInfo(name, dtype, tuple(value.shape), path, start, stop))
    return Header(tuple(sorted(tensors, key=lambda info: (info.start, info.name))), {"format": "pt"})


_UNSAFE = (
    "{path} holds more than tensors: unpickling it would run code, so it was not loaded. "
    "Ask its author for a safetensors file."
)
_CONVERT = "Convert it once: load it with transformers and save_pretrained(..., safe_serialization=True)."


def _load(path: Path) -> object:
    """What `path` holds, with no code of it run and no warning of torch's about old pickle protocols.

    UnpicklingError when it asks for more than tensors, UnusableInput when it is broken.
    """
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # a broken pickle makes torch's reader fail in whatever way its stack happens to
            raise _unreadable(path, error) from None


def _state_dict(path: Path, state: object) -> dict[str, Tensor]:
    import torch

    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise UnusableInput(f"{path} is not a state dict of tensors.")
    return state


def _read_legacy(path: Path) -> Header:
    """The format before torch 1.6 cannot be mapped: its tensors are written to a temporary safetensors file."""
    import atexit
    import shutil
    import tempfile

    from safetensors.torch import save_file

    from ingraft.checkpoint.header import read_header

    try:
        state = _load(path)
    except pickle.UnpicklingError as error:
        if "invalid load key" in str(error) or "pickle data was truncated" in str(error):
            raise UnusableInput(f"{path} is not a checkpoint that torch can read.", hint="Download it again.") from None
        raise UnusableInput(_UNSAFE.format(path=path)) from None
    folder = Path(tempfile.mkdtemp(prefix="ingraft-pickled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    converted = folder / f"{path.stem}.safetensors"
    tensors = {name: value.clone().contiguous() for name, value in _state_dict(path, state).items()}
    save_file(tensors, converted, metadata={"format": "pt"})
    return read_header(converted)


def _unreadable(path: Path, error: Exception) -> UnusableInput:
    return UnusableInput(f"{path} cannot be read: {first_line(error).rstrip('.')}.", hint="Download it again.")
