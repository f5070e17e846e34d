"""A model's small files by their path in it, wherever the content comes from: the plan's sources, or a directory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ingraft.files import read_json


@dataclass(frozen=True)
class ModelFiles:
    """sources  path in the model → the file that is copied there; `texts` path → content made here, which goes first"""

    sources: Mapping[str, Path]
    texts: Mapping[str, str]

    @classmethod
    def of_directory(cls, root: Path) -> ModelFiles:
        """Every file below `root`, hidden ones left out."""
        paths = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        seen = {path.as_posix(): root / path for path in paths if not any(part.startswith(".") for part in path.parts)}
        return cls(seen, {})

    def __contains__(self, path: str) -> bool:
        return path in self.texts or path in self.sources

    def paths(self) -> set[str]:
        return {*self.sources, *self.texts}

    def json(self, path: str) -> Any:
        """The JSON value at `path`, None where there is no such file. UnusableInput when it is not JSON."""
        if path in self.texts:
            return json.loads(self.texts[path])
        return read_json(self.sources[path]) if path in self.sources else None

    def object(self, path: str) -> dict[str, Any] | None:
        """The JSON object at `path`; None where there is no such file or it holds something else."""
        value = self.json(path)
        return value if isinstance(value, dict) else None


def joined(folder: str, *names: str) -> str:
    """`names` below the module's `folder`, which is empty for the root."""
    return str(PurePosixPath(folder, *names))


def first_of(files: ModelFiles, folder: str, names: Sequence[str]) -> str | None:
    """The path of the first of `names` that is in `folder`."""
    return next((joined(folder, name) for name in names if joined(folder, name) in files), None)
