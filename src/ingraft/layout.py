"""A Sentence Transformers directory: which module lies in which folder, and where the transformer's weights are.

A plain transformers directory is the special case of no modules.json: one transformer at the root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.files import inside, read_json, read_json_object

MODULES_FILE = "modules.json"
# Module types (last part of the class path) that wrap a transformers checkpoint.
TRANSFORMER_TYPES = ("Transformer", "MLMTransformer", "CLIPModel")
MODEL_CLASSES = ("SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder")
_TASK_CLASS = {
    "sequence-classification": "CrossEncoder",
    "text-generation": "CrossEncoder",
    "any-to-any": "CrossEncoder",
    "fill-mask": "SparseEncoder",
    "retrieval": "MultiVectorEncoder",
}
# Models that begin with one of these have no transformer.
_WORD_VECTORS = ("StaticEmbedding", "SparseStaticEmbedding", "WordEmbeddings", "BoW")
# The file has had one name per model type in older releases; the first that exists is read.
TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)


@dataclass(frozen=True)
class Module:
    """One entry of modules.json; `path` is relative to the model and empty for the root."""

    name: str
    type: str
    path: str

    @property
    def kind(self) -> str:
        """The class without its package: `Transformer`, `Pooling`, `Dense` …"""
        return self.type.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class Layout:
    """Where the parts of a model lie.

    modules      those of modules.json; the modules inside a Router follow it
    transformer  path of the transformer's folder, relative to the root (empty: the root itself)
    model_class  the Sentence Transformers class that loads it, or None for a plain transformers directory
    """

    root: Path
    modules: tuple[Module, ...]
    transformer: str
    model_class: str | None

    @property
    def transformer_folder(self) -> Path:
        return self.root / self.transformer

    @property
    def is_sentence_transformers(self) -> bool:
        return bool(self.modules)

    @property
    def paths(self) -> tuple[str, ...]:
        """Folders of the modules, without the root."""
        return tuple(module.path for module in self.modules if module.path)

    @property
    def transformers(self) -> tuple[str, ...]:
        """Folders of all transformers; more than one in a model with a Router."""
        found = tuple(module.path for module in self.modules if module.kind in TRANSFORMER_TYPES)
        return found or (self.transformer,)


def read_layout(root: Path) -> Layout:
    """The layout of the model (or Sentence Transformers adapter) in `root`. Raises UnusableInput for unsound files."""
    file = root / MODULES_FILE
    if not file.is_file():
        return Layout(root, (), "", None)
    modules = _read_modules(root, file)
    transformers = [module for module in modules if module.kind in TRANSFORMER_TYPES]
    if not transformers:
        # A custom module class, from the model's own code: the folder with a transformers config is meant.
        candidates = modules[:1] if modules[0].kind in _WORD_VECTORS else modules
        transformers = [module for module in candidates if (root / module.path / "config.json").is_file()][:1]
    transformer = transformers[0].path if transformers else ""
    return Layout(root, modules, transformer, _model_class(root, transformer))


def _read_modules(root: Path, file: Path) -> tuple[Module, ...]:
    entries = read_json(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UnusableInput(f"{file} is not a list of modules.")
    modules = []
    for position, entry in enumerate(
        sorted(entries, key=lambda e: e.get("idx", 0) if isinstance(e.get("idx"), int) else 0)
    ):
        path, kind = entry.get("path"), entry.get("type")
        if not isinstance(path, str) or not isinstance(kind, str):
            raise UnusableInput(f"{file}: module {position} has no path or no type.")
        inside(root, path, named_by=file)
        modules.append(Module(str(entry.get("name", position)), kind, path))
        if modules[-1].kind == "Router":
            modules += _routed_modules(root, root / path / "router_config.json", path)
    return tuple(modules)


def _routed_modules(root: Path, file: Path, router: str) -> list[Module]:
    """The modules behind a Router, each in a folder below the Router's own."""
    if not file.is_file():
        return []
    types = read_json_object(file).get("types")
    if not isinstance(types, dict) or not all(isinstance(kind, str) for kind in types.values()):
        raise UnusableInput(f"{file} does not say of what types the routed modules are.")
    modules = []
    for name, kind in types.items():
        inside(root, name, named_by=file)
        modules.append(Module(name, kind, str(PurePosixPath(router) / name)))
    return modules


def read_transformer_config(folder: Path) -> Mapping[str, Any]:
    """sentence_bert_config.json or its older names; empty where there is none."""
    for name in TRANSFORMER_CONFIGS:
        if (folder / name).is_file():
            return read_json_object(folder / name)
    return {}


def transformer_task(layout: Layout) -> str:
    """What the transformer is loaded for, which decides its class: `feature-extraction`, `fill-mask` …"""
    declared = read_transformer_config(layout.transformer_folder).get("transformer_task")
    if declared is None and layout.model_class == "CrossEncoder":
        return "sequence-classification"
    here = [module.kind for module in layout.modules if module.path == layout.transformer]
    if declared is None and "MLMTransformer" in here:
        return "fill-mask"
    return str(declared or "feature-extraction")


def _model_class(root: Path, transformer: str) -> str:
    file = root / "config_sentence_transformers.json"
    if file.is_file():
        declared = read_json_object(file).get("model_type")
        if declared in MODEL_CLASSES:
            return str(declared)
    task = read_transformer_config(root / transformer).get("transformer_task")
    return _TASK_CLASS.get(str(task), "SentenceTransformer")
