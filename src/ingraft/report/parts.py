"""What was merged into what: names, settings, files and their hashes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.checkpoint import dtype_name
from ingraft.errors import UnusableInput
from ingraft.files import human_bytes, read_json_object
from ingraft.hashes import FileHashes
from ingraft.output_files import MANIFEST, OWN_FILES
from ingraft.report.words import short_name
from ingraft.steps import MergePlan, Source

_WORKERS = 2


@dataclass(frozen=True)
class HashedFile:
    """recorded  whether ingraft.json has the same hash: None where it says nothing about the file."""

    path: str
    size: str
    sha256: str
    recorded: bool | None = None


@dataclass(frozen=True)
class Part:
    """The base, the adapter, or the merged model: facts as (name, value), and files."""

    role: str
    name: str
    facts: tuple[tuple[str, str], ...]
    files: tuple[HashedFile, ...]


def read_manifest(merged: Path) -> Mapping[str, Any]:
    """ingraft.json of a merged model; empty where there is none, or none that can be read: a check says so."""
    try:
        return read_json_object(merged / MANIFEST)
    except UnusableInput:
        return {}


def part_of(manifest: Any, *names: str) -> Mapping[str, Any]:
    """The object under `names` in a manifest; empty where it holds something else there, as a stranger's may."""
    for name in names:
        manifest = manifest.get(name) if isinstance(manifest, dict) else None
    return manifest if isinstance(manifest, dict) else {}


def parts(plan: MergePlan, merged: Path, manifest: Mapping[str, Any]) -> tuple[Part, ...]:
    """Base, adapter and merged model, every file hashed now and set against what the manifest says."""
    base = [*plan.base.weights, *sorted(plan.base.root.glob("config.json"))]
    adapter = [*plan.adapter.weights, *sorted(path for path in plan.adapter.root.glob("adapter_config.json"))]
    outputs = sorted(path for path in merged.rglob("*") if path.is_file() and path.name not in OWN_FILES)
    with FileHashes(_WORKERS) as pool:
        present = [path for path in dict.fromkeys([*base, *adapter, *outputs]) if path.is_file()]
        pool.start(present)
        hashes = {path: pool.get(path) or "" for path in present}
    said = {role: part_of(manifest, role, "files") for role in ("base", "adapter")}
    written = part_of(manifest, "files")
    return (
        Part(
            "base", short_name(plan.base.name), _facts(plan.base), _hashed(base, plan.base.root, hashes, said["base"])
        ),
        Part(
            "adapter",
            short_name(plan.adapter.name),
            (("method", plan.method), *_facts(plan.adapter)),
            _hashed(adapter, plan.adapter.root, hashes, said["adapter"]),
        ),
        Part("merged", merged.name, _result(plan, manifest), _hashed(outputs, merged, hashes, written)),
    )


def _hashed(
    files: list[Path], root: Path, hashes: Mapping[Path, str], recorded: Mapping[str, str | None]
) -> tuple[HashedFile, ...]:
    found = []
    for path in files:
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        if path in hashes:
            # Without a proof the weights' hashes are recorded as null.
            same = recorded[name] == hashes[path] if recorded.get(name) else None
            found.append(HashedFile(name, human_bytes(path.stat().st_size), hashes[path], same))
        elif recorded.get(name):  # a base that was dequantised for the merge is gone by now
            found.append(HashedFile(name, "", str(recorded[name])))
    return tuple(found)


def _facts(source: Source) -> tuple[tuple[str, str], ...]:
    facts = [(key.replace("_", " "), _text(key, value)) for key, value in source.details.items()]
    return (*facts, ("weights", human_bytes(source.nbytes)))


def _text(key: str, value: Any) -> str:
    if key == "dtype":
        return dtype_name(str(value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _result(plan: MergePlan, manifest: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    counts = {
        "edited": plan.count("edit"),
        "replaced": plan.count("replace"),
        "added": plan.count("add"),
        "cast": plan.count("cast"),
        "copied byte for byte": plan.count("copy"),
    }
    dtypes = dict.fromkeys(dtype_name(step.dtype) for step in plan.steps() if step.action != "copy")
    facts = [("tensors", ", ".join(f"{count} {what}" for what, count in counts.items() if count))]
    facts += [("edited in", ", ".join(dtypes)), ("route", plan.route)]
    facts += [("class", plan.layout.model_class or "transformers")]
    facts += [("merged at", str(manifest["created"])[:16].replace("T", " ") + " UTC")] if "created" in manifest else []
    return tuple(facts)
