"""`ingraft.json`: what was merged from what, with which versions, and what the proof found."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ingraft.files import to_json
from ingraft.hashes import FileHashes
from ingraft.output_files import MANIFEST
from ingraft.steps import MergePlan, MergeStep, Source
from ingraft.verification.report import VerificationReport

SCHEMA = 1
_LIBRARIES = ("ingraft", "torch", "safetensors", "peft", "transformers", "sentence-transformers", "bitsandbytes")


def write_manifest(plan: MergePlan, folder: Path, report: VerificationReport | None, hashes: FileHashes) -> None:
    """Write the manifest of the finished merge in `folder`; `report` is None when the proof was switched off.

    Without a proof the weights of base and output are not hashed either: `null` stands for their hashes.
    """
    inputs = {*plan.base.weights, *plan.adapter.weights}
    outputs = sorted(path for path in folder.rglob("*") if path.is_file())
    unread = set() if report else {*plan.base.weights, *(folder / shard.file for shard in plan.shards)}
    hashes.start(path for path in [*sorted(inputs), *outputs] if path not in unread)
    manifest = {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "base": _source(plan.base, plan.given_base, hashes),
        "adapter": _source(plan.adapter, plan.adapter.root, hashes),
        "method": plan.method,
        "route": plan.route,
        "tensors": [_tensor(step) for step in plan.steps() if step.action != "copy"],
        "files": {str(path.relative_to(folder).as_posix()): hashes.get(path) for path in outputs},
        "verification": report.to_dict() if report else None,
    }
    (folder / MANIFEST).write_text(to_json(manifest), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of what takes part in a merge, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _source(source: Source, root: Path, hashes: FileHashes) -> dict[str, Any]:
    files = {os.path.relpath(path, root): hashes.get(path) for path in source.weights}
    return {"name": source.name, **source.details, "files": files}


def _tensor(step: MergeStep) -> dict[str, Any]:
    return {
        "name": step.tensor,
        "action": step.action,
        "dtype": step.dtype,
        "reason": step.reason,
        "settings": [dict(edit.settings) for edit in step.edits if edit.settings],
    }
