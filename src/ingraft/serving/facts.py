"""What the rules look at: a model's small files, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.layout import TRANSFORMER_TYPES, Layout, Module, read_layout, read_transformer_config
from ingraft.portable import ModelFiles, pooling_modes

_TEXT_PARTS = (*TRANSFORMER_TYPES, "Pooling", "Dense", "Normalize", "Dropout")


@dataclass(frozen=True)
class ModelFacts:
    """A model directory in terms of the rules.

    files      every file by its path in the directory
    config     config.json of the transformer; `sentence` its sentence_bert_config.json, `tokenizer` its
               tokenizer_config.json, `settings` config_sentence_transformers.json; empty where there is none
    pooling    (module, config) of the first Pooling module, or None
    dense      (module, config) of each Dense module; `router` router_config.json
    lowercases  tokenizer.json itself lowers the case
    """

    root: Path
    layout: Layout
    files: frozenset[str]
    config: Mapping[str, Any]
    sentence: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    settings: Mapping[str, Any]
    pooling: tuple[Module, Mapping[str, Any]] | None
    dense: tuple[tuple[Module, Mapping[str, Any]], ...]
    router: Mapping[str, Any]
    lowercases: bool

    @property
    def architecture(self) -> str:
        names = self.config.get("architectures")
        return str(names[0]) if isinstance(names, list) and names else ""

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    @property
    def is_embedder(self) -> bool:
        return self.layout.model_class in (None, "SentenceTransformer")

    @property
    def is_cross_encoder(self) -> bool:
        return self.layout.model_class == "CrossEncoder"

    @property
    def modes(self) -> tuple[str, ...]:
        """The pooling modes; empty without a Pooling module."""
        return pooling_modes(self.pooling[1]) if self.pooling else ()

    @property
    def normalizes(self) -> bool:
        return any(module.kind == "Normalize" for module in self.layout.modules)

    @property
    def other_modules(self) -> list[str]:
        """Modules that change the vector and that are none of Transformer, Pooling, Dense, Normalize."""
        return [module.kind for module in self.layout.modules if module.kind not in _TEXT_PARTS]

    @property
    def prompts(self) -> list[str]:
        """Names of the prompts that are not empty."""
        prompts = self.settings.get("prompts")
        return [str(name) for name, text in prompts.items() if text] if isinstance(prompts, dict) else []

    @property
    def in_root(self) -> bool:
        return "config.json" in self.files


def read_facts(root: Path) -> ModelFacts:
    """The facts about the model in `root`. UnusableInput when one of its files is no JSON."""
    layout = read_layout(root)
    files = ModelFiles.of_directory(root)
    folder = layout.transformer

    def at(path: Path, name: str) -> Mapping[str, Any]:
        return files.object((path / name).relative_to(root).as_posix()) or {}

    def configs(kind: str) -> tuple[tuple[Module, Mapping[str, Any]], ...]:
        modules = [module for module in layout.modules if module.kind == kind]
        return tuple((module, at(root / module.path, "config.json")) for module in modules)

    return ModelFacts(
        root=root,
        layout=layout,
        files=frozenset(files.paths()),
        config=at(root / folder, "config.json"),
        sentence=read_transformer_config(root / folder),
        tokenizer=at(root / folder, "tokenizer_config.json"),
        settings=at(root, "config_sentence_transformers.json"),
        pooling=next(iter(configs("Pooling")), None),
        dense=configs("Dense"),
        router=next((at(root / m.path, "router_config.json") for m in layout.modules if m.kind == "Router"), {}),
        lowercases=_lowercases(at(root / folder, "tokenizer.json")),
    )


def _lowercases(tokenizer: Mapping[str, Any]) -> bool:
    normalizer = tokenizer.get("normalizer")
    if not isinstance(normalizer, dict):
        return False
    parts = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    return any(
        isinstance(part, dict) and (part.get("type") == "Lowercase" or part.get("lowercase") is True)
        for part in (parts if isinstance(parts, list) else [])
    )
