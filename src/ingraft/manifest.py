"""`ingraft.json`: what was merged from what, with which versions, and what the proof found."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ingraft.files import to_json
from ingraft.steps import MergePlan, MergeStep, Source
from ingraft.verification.report import VerificationReport

FILE = "ingraft.json"
SCHEMA = 1
_LIBRARIES = ("ingraft", "torch", "safetensors", "peft", "transformers", "sentence-transformers", "bitsandbytes")


def write_manifest(plan: MergePlan, folder: Path, report: VerificationReport | None, *, workers: int = 2) -> None:
    """Write the manifest of the finished merge in `folder`; `report` is None when the proof was switched off."""
    inputs = sorted({*plan.base.weights, *plan.adapter.weights, plan.adapter.root / "adapter_config.json"})
    outputs = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = hash_files([path for path in [*inputs, *outputs] if path.is_file()], workers=workers)
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "base": _source(plan.base, plan.given_base, hashes),
        "adapter": _source(plan.adapter, plan.adapter.root, hashes),
        "method": plan.method,
        "route": plan.route,
        "tensors": [_tensor(step) for step in plan.steps() if step.action != "copy"],
        "files": {str(path.relative_to(folder).as_posix()): hashes[path] for path in outputs},
        "verification": report.to_dict() if report else None,
    }
    (folder / FILE).write_text(to_json(manifest), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what takes part in a merge, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hash_files(paths: Sequence[Path], *, workers: int) -> dict[Path, str]:
    """sha256 of each file, in hexadecimal."""
    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(paths, pool.map(_sha256, paths), strict=True))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 22)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _source(source: Source, root: Path, hashes: Mapping[Path, str]) -> dict[str, Any]:
    files = {os.path.relpath(path, root): hashes[path] for path in source.weights}
    return {"name": source.name, **source.details, "files": files}


def _tensor(step: MergeStep) -> dict[str, Any]:
    return {
        "name": step.tensor,
        "action": step.action,
        "dtype": step.dtype,
        "reason": step.reason,
        "settings": [dict(edit.settings) for edit in step.edits if edit.settings],
    }
