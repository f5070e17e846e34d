"""What lies around a graph: the model's other files, the manifest, and a section of the model card."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ingraft.card import CARD
from ingraft.exporters.result import Variant
from ingraft.exporters.source import Source, carried_files, weight_files
from ingraft.files import human_bytes, read_json_object, to_json
from ingraft.hashes import FileHashes
from ingraft.manifest import SCHEMA, versions
from ingraft.output_files import MANIFEST


def carry(source: Source, folder: Path, *, weights: bool) -> None:
    """Copy the model's files into `folder`, its torch weights only if asked for."""
    for name in carried_files(source.layout, weights=weights):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.root / name, target)


def write_export_manifest(source: Source, folder: Path, export: dict[str, Any]) -> None:
    """Write `ingraft.json`: that of the merged model, if it has one, with the export and the hashes of all files."""
    _write(source, folder, known_manifest(source) or {"schema": SCHEMA}, export)


def write_distilled_manifest(source: Source, folder: Path, export: dict[str, Any]) -> None:
    """Write `ingraft.json` of another model, whose tensors are none of the merged one's: that is its teacher."""
    known = known_manifest(source)
    with FileHashes(2) as hashes:
        weights = weight_files(source.layout)
        hashes.start(weights)
        teacher: dict[str, Any] = {
            "name": source.name,
            "architecture": source.architecture,
            "parameters": source.parameters,
            "files": {path.relative_to(source.root).as_posix(): hashes.get(path) for path in weights},
            **{name: known[name] for name in ("base", "adapter", "method") if name in known},
        }
    _write(source, folder, {"schema": SCHEMA}, {**export, "teacher": teacher})


def known_manifest(source: Source) -> dict[str, Any]:
    """What `ingraft.json` says of the merged model; nothing where it has none."""
    return read_json_object(source.root / MANIFEST) if (source.root / MANIFEST).is_file() else {}


def _write(source: Source, folder: Path, known: dict[str, Any], export: dict[str, Any]) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    with FileHashes(2) as hashes:
        hashes.start(files)
        found = {path.relative_to(folder).as_posix(): hashes.get(path) for path in files}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    section = {"created": created, "versions": versions(), "model": source.name, **export}
    (folder / MANIFEST).write_text(to_json({**known, "files": found, "export": section}), encoding="utf-8")


def extend_card(folder: Path, title: str, sentences: Sequence[str], variants: Sequence[Variant]) -> None:
    """Add what the export is, and its figures, to the model card; begin one where there is none."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace").rstrip() + "\n\n" if card.is_file() else ""
    rows = [f"| {v.name} | {human_bytes(v.nbytes)} | {v.speed_text} | {v.difference_text} |" for v in variants]
    table = ["| | size | texts/s | largest difference |", "| --- | ---: | ---: | ---: |", *rows]
    parts = [f"## {title}", "\n".join(sentences), "\n".join(table)]
    card.write_text(text + "\n\n".join(parts) + "\n", encoding="utf-8")
