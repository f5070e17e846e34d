"""Looks at directories and safetensors files that do not go through ingraft."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below `folder`, hidden things too: relative path → kind or sha256 of the content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def raw_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """name → (dtype, shape, bytes) of a safetensors file, in the order of the file's header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    data = content[8 + length :]
    return {
        name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def metadata_of(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, str] = json.loads(file.read(length)).get("__metadata__", {})
    return found


def stored_tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The same over all of a folder's *.safetensors files."""
    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= raw_tensors(path)
    return found


def raw_file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """The bytes of a safetensors file with any header, sound or not; `header` is JSON or the text itself."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of the object in `path`; a value of None removes the key."""
    value = json.loads(path.read_text(encoding="utf-8"))
    for key, new in changes.items():
        if new is None:
            value.pop(key, None)
        else:
            value[key] = new
    write_json(path, value)
