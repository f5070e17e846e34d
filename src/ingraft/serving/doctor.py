"""Apply the table of servers to a directory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ingraft.adapter import Adapter, open_adapters
from ingraft.checkpoint import find_weights
from ingraft.errors import UnusableInput, nearest
from ingraft.hub import local_directory
from ingraft.layout import read_layout
from ingraft.portable import ModelFiles, portable_files
from ingraft.serving import adapters, fastembed, infinity, llama_cpp, sentence_transformers, tei, vllm
from ingraft.serving.facts import ModelFacts, read_facts
from ingraft.serving.rule import LEGACY, Finding, Rule, findings

Verdict = Literal["ready", "loses something", "will not start"]
Kind = Literal["model", "adapter"]


@dataclass(frozen=True)
class Server:
    """A server or reader; `release` is the one that the rules were taken from (llama.cpp has no numbers)."""

    name: str
    release: str
    rules: tuple[Rule[ModelFacts], ...]
    adapter_rules: tuple[Rule[Adapter], ...]


SERVERS = (
    Server("sentence-transformers", "6.2", sentence_transformers.RULES, adapters.SENTENCE_TRANSFORMERS),
    Server("tei", "1.9.3", tei.RULES, adapters.TEI),
    Server("vllm", "0.32", vllm.RULES, adapters.VLLM),
    Server("infinity", "0.0.78", infinity.RULES, adapters.INFINITY),
    Server("fastembed", "0.9.1", fastembed.RULES, adapters.FASTEMBED),
    Server("llama.cpp", "", llama_cpp.RULES, adapters.LLAMA_CPP),
)
# What is looked at when no server is named.
ALL = (
    "sentence-transformers==3.4", "sentence-transformers==5.1", "tei", "vllm", "infinity", "fastembed", "llama.cpp",
)  # fmt: skip


@dataclass(frozen=True)
class ServerDiagnosis:
    """What one server makes of the directory."""

    server: str
    verdict: Verdict
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Diagnosis:
    """legacy      a release is among the servers that refuses newer names
    rewritable  files that `rewrite` writes anew, in the layout that these servers want; empty for an adapter
    """

    path: Path
    kind: Kind
    servers: tuple[ServerDiagnosis, ...]
    legacy: bool
    rewritable: tuple[str, ...]

    @property
    def starts(self) -> bool:
        """Does every server start?"""
        return all(found.verdict != "will not start" for found in self.servers)

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "path": str(self.path)}


def examine(path: str | Path, servers: Sequence[str] = ()) -> Diagnosis:
    """What `servers` (default: all) make of the model or adapter in `path`; reads headers and JSON alone.

    servers  names, each with `==release` for another release than the one that the rules were taken from
    Raises UnusableInput for a directory that is neither model nor adapter, and for an unknown server.
    """
    chosen = [_server(name) for name in servers or ALL]
    root = local_directory(path, role="model or adapter")
    opened = _adapter(root)
    if opened is not None:
        broken = [(name, findings(server.adapter_rules, opened, release)) for name, server, release in chosen]
        return Diagnosis(root, "adapter", _diagnoses(broken), legacy=False, rewritable=())
    facts = read_facts(root)
    if find_weights(facts.layout.transformer_folder) is None:
        raise UnusableInput(f"{root} holds neither a model nor an adapter.", hint=f"See: ingraft inspect {root}")
    broken = [(name, findings(server.rules, facts, release)) for name, server, release in chosen]
    legacy = any(finding.fix == LEGACY for _, found in broken for finding in found)
    files = portable_files(ModelFiles.of_directory(root), facts.layout, legacy=legacy)
    return Diagnosis(root, "model", _diagnoses(broken), legacy, tuple(file.path for file in files))


def _diagnoses(broken: Sequence[tuple[str, tuple[Finding, ...]]]) -> tuple[ServerDiagnosis, ...]:
    return tuple(ServerDiagnosis(name, _verdict(found), found) for name, found in broken)


def _adapter(root: Path) -> Adapter | None:
    layout = read_layout(root)
    folders = [root, *(root / path for path in layout.paths)]
    if not any((folder / "adapter_config.json").is_file() for folder in folders):
        return None
    return open_adapters(root)[0]


def _verdict(broken: Sequence[Finding]) -> Verdict:
    effects = {finding.effect for finding in broken}
    if "refuses" in effects:
        return "will not start"
    return "loses something" if "differs" in effects else "ready"


def _server(asked: str) -> tuple[str, Server, tuple[int, ...] | None]:
    name, _, release = asked.partition("==")
    server = next((server for server in SERVERS if server.name == name.strip().lower()), None)
    if server is None:
        names = [server.name for server in SERVERS]
        raise UnusableInput(
            f"No rules for the server {name}{nearest(name, names)}.", hint=f"There are: {', '.join(names)}"
        )
    if not release:
        return f"{server.name} {server.release}".rstrip(), server, None
    if not re.fullmatch(r"\d+(\.\d+)*", release.strip()):
        raise UnusableInput(
            f"{asked}: {release!r} is no release.", hint=f"For example: {server.name}=={server.release or 1}"
        )
    numbers = tuple(int(part) for part in release.split("."))
    return f"{server.name} {release.strip()}", server, numbers
