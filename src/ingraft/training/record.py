"""What lies beside an adapter so that its run can be understood and repeated: settings, versions, hashes, figures."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ingraft.files import to_json
from ingraft.fingerprint import RECORD_FILE
from ingraft.hub import expanded
from ingraft.manifest import versions
from ingraft.training.config import TrainingConfig
from ingraft.training.config_file import to_yaml
from ingraft.training.facts import Quantised, TrainingResult
from ingraft.training.fit import Best
from ingraft.training.keys import plain

CONFIG_FILE = "ingraft_training.yaml"
SCHEMA = 1


def write_record(
    folder: Path,
    config: TrainingConfig,
    result: TrainingResult,
    *,
    files: Mapping[str, str],
    quantised: Quantised | None,
    best: Best | None,
) -> None:
    """Write the resolved settings, which `ingraft train` takes again, and the record of the run into `folder`.

    files  hashes of what was trained and measured on
    """
    (folder / CONFIG_FILE).write_text(to_yaml(replace(config, resume=False)), encoding="utf-8")
    record = {
        "schema": SCHEMA,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "git": git_revision(Path.cwd()),
        "seed": config.seed,
        "files": files,
        "data": (result.data, *result.more_data),
        "base": result.model,
        "quantised": quantised,
        "adapter": result.adapter,
        "memory": result.memory,
        "before": result.before,
        "after": result.after,
        "general_before": result.general_before,
        "general_after": result.general_after,
        "steps": result.steps,
        "course": result.course,
        "best": best,
        "seconds": result.seconds,
    }
    (folder / RECORD_FILE).write_text(to_json(plain(record)), encoding="utf-8")


def data_hashes(config: TrainingConfig) -> dict[str, str]:
    """Name → hash of all local data that a run trains and measures on."""
    paths = {name: expanded(name) for name in config.data_names}
    return {name: _sha256(path) for name, path in paths.items() if path.exists()}


def git_revision(folder: Path) -> dict[str, Any] | None:
    """Revision of the repository that `folder` is in, and whether files in it differ from that; None outside of one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        return {"revision": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _sha256(path: Path) -> str:
    """The hash of a file in hexadecimal, or of a directory's files with their relative names."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
