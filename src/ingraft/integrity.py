"""Is a merged directory still what was published? Every file against its manifest; no adapter, base or torch needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.files import inside, read_json_object
from ingraft.hashes import FileHashes
from ingraft.manifest import SCHEMA
from ingraft.output_files import MANIFEST
from ingraft.verification.files import FREE, no_adapter_left, no_other_files
from ingraft.verification.report import Check

_MOST_NAMED, _MOST_SHOWN = 3, 60


def has_manifest(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def verify_manifest(folder: Path, *, workers: int = 2) -> tuple[Check, ...]:
    """Compare every file in `folder` with the sha256 that `ingraft.json` holds for it; nothing may be missing or new.

    A file without a recorded hash cannot be compared, so it fails: the weights of a merge with --no-verify have none.
    Raises UnusableInput when there is no manifest.
    """
    if not has_manifest(folder):
        raise UnusableInput(
            f"{folder} has no {MANIFEST}, so there is nothing to check it against.",
            hint="Pass the adapter that was merged with --adapter: that proves the model itself.",
        )
    manifest, recorded = _recorded(folder)
    if not manifest.passed:
        return (manifest,)
    unhashed = sorted(name for name, sha256 in recorded.items() if sha256 is None)
    return (
        manifest,
        _published(folder, recorded, workers),
        Check(
            "hashes",
            not unhashed,
            f"{MANIFEST} holds a sha256 of every file",
            len(recorded) - len(unhashed),
            len(recorded),
            f"merged with --no-verify, which hashes no weights: {_named(unhashed)}; prove it with --adapter"
            if unhashed
            else "",
        ),
        no_other_files(folder, recorded),
        no_adapter_left(folder),
    )


def verify_hashes(folder: Path, *, workers: int = 2) -> tuple[Check, ...]:
    """The part of it that adds to a proof from base and adapter: the files that have a hash have that one.

    Nothing where there is no manifest: the model was merged by something else.
    """
    if not has_manifest(folder):
        return ()
    manifest, recorded = _recorded(folder)
    return (manifest, _published(folder, recorded, workers)) if manifest.passed else (manifest,)


def _recorded(folder: Path) -> tuple[Check, Mapping[str, str | None]]:
    """Whether the manifest can be read, and its sha256 by file."""
    fault = ""
    files: Mapping[str, str | None] = {}
    try:
        manifest: Mapping[str, Any] = read_json_object(folder / MANIFEST)
        if manifest.get("schema") != SCHEMA:
            schema = str(manifest.get("schema"))[:_MOST_SHOWN]
            fault = f"{MANIFEST} has schema {schema}, this version of ingraft reads {SCHEMA}"
        files = manifest.get("files") or {}
        if not fault and not _are_hashes(files):
            fault = f"{MANIFEST} holds no list of files and their hashes"
        for name in files if not fault else ():
            inside(folder, name, named_by=folder / MANIFEST)
    except UnusableInput as error:
        fault = error.message
    return Check("manifest", not fault, f"{MANIFEST} lists what was published", where=fault), {} if fault else files


def _are_hashes(files: Any) -> bool:
    return (
        isinstance(files, dict)
        and bool(files)
        and all(isinstance(name, str) and isinstance(sha256, (str, type(None))) for name, sha256 in files.items())
    )


def _published(folder: Path, recorded: Mapping[str, str | None], workers: int) -> Check:
    compared = {name: sha256 for name, sha256 in recorded.items() if Path(name).name not in FREE}
    faults = []
    with FileHashes(workers) as hashes:
        there = {name: folder / name for name in compared if (folder / name).is_file()}
        hashes.start(path for name, path in there.items() if compared[name])
        for name, sha256 in sorted(compared.items()):
            if name not in there:
                faults.append(f"{name} is missing")
            elif sha256 and hashes.get(there[name]) != sha256:
                faults.append(f"{name} has another sha256")
    return Check(
        "published files",
        not faults,
        f"every file has the sha256 that {MANIFEST} holds for it",
        len(compared) - len(faults),
        len(compared),
        _named(faults),
    )


def _named(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")
