"""Find the base model that an adapter belongs to, and refuse one that cannot be merged into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingraft.adapter import Adapter
from ingraft.checkpoint import Checkpoint, open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.hub import local_directory
from ingraft.layout import Layout, read_layout, transformer_task

EDITABLE_DTYPES = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True)
class BaseModel:
    """The base: its name as the user or the adapter gave it, its layout, the transformer's config and weights.

    as_stored  the output is a plain transformers directory, loaded by the class that its config.json names
    task  what the merged model is loaded for (`transformer_task`), as the adapter's directory says, else the base's
    """

    name: str
    layout: Layout
    config: Mapping[str, Any]
    checkpoint: Checkpoint
    task: str = "feature-extraction"
    as_stored: bool = False


def open_base(adapter: Adapter, base: str | Path | None) -> BaseModel:
    """The base that `base` names, else the one that the adapter's config names.

    Behind a Router the adapter belongs to the transformer in the folder of the same name.
    """
    name = str(base) if base is not None else adapter.config.base_model
    if name is None:
        raise UnusableInput(
            f"{adapter.folder / 'adapter_config.json'} names no base model.", hint="Pass it with --base."
        )
    if base is not None:
        root = local_directory(name, role="base model")
    else:
        hint = f"The adapter in {adapter.folder} names it; pass the one you have with --base."
        root = local_directory(name, role="base model", revision=adapter.config.revision, hint=hint)
    layout = _layout_around(root)
    if len(layout.transformers) > 1:
        layout = _routed(layout, adapter)
    folder = layout.transformer_folder
    if (root / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise UnusableInput(
            f"The base model {root} is itself an adapter.", hint="Merge that one first, then this one into the result."
        )
    if not (folder / "config.json").is_file():
        raise UnusableInput(
            f"{folder} has no config.json, so it is no transformers model.", hint="Pass another --base."
        )
    trained = _trained_layout(adapter)
    config, checkpoint = read_model_config(folder), open_checkpoint(folder)
    _check_layers(folder, config, checkpoint)
    return BaseModel(
        name,
        layout,
        config,
        checkpoint,
        task=transformer_task(trained or layout),
        as_stored=trained is None and not layout.is_sentence_transformers,
    )


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a transformer. Raises UnusableInput where it names its class by something that is no name."""
    file = folder / "config.json"
    config = read_json_object(file)
    kind, classes = config.get("model_type"), config.get("architectures")
    if kind is not None and not isinstance(kind, str):
        raise UnusableInput(f"{file}: model_type is {kind!r:.80}, expected a name.")
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise UnusableInput(f"{file}: architectures is {classes!r:.80}, expected a list of class names.")
    return config


def _check_layers(folder: Path, config: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Building a class with a million layers takes for ever, and the checkpoint has no tensors for them."""
    for part in [config, *(part for part in config.values() if isinstance(part, dict))]:
        for key, count in part.items():
            if not (_COUNTS.search(key) and isinstance(count, int) and count > max(_MANY, len(checkpoint.tensors))):
                continue
            raise UnusableInput(
                f"{folder / 'config.json'}: {key} is {count!s:.40}, and its checkpoint has "
                f"{len(checkpoint.tensors):,} tensors.",
                hint="Download the model again.",
            )


_COUNTS = re.compile(r"(layers?|experts)$|^depth$")
_MANY = 1000  # layers may share their tensors


def _trained_layout(adapter: Adapter) -> Layout | None:
    """The layout of the adapter's directory, with the transformer that the adapter is for, where it has one."""
    layout = read_layout(adapter.root)
    if not layout.is_sentence_transformers:
        return None
    path = adapter.folder.relative_to(adapter.root).as_posix()
    return replace(layout, transformer=path) if path in layout.transformers else layout


def _routed(layout: Layout, adapter: Adapter) -> Layout:
    """The layout with the transformer that `adapter` is for."""
    path = adapter.folder.relative_to(adapter.root).as_posix()
    if path not in layout.transformers:
        folders = ", ".join(layout.transformers)
        raise UnusableInput(
            f"The base {layout.root} routes between {folders}; the adapter lies in {path}, which is none of them.",
            hint="Put the adapter into the folder of the transformer that it belongs to, beside a modules.json.",
        )
    return replace(layout, transformer=path)


def _layout_around(root: Path) -> Layout:
    """The layout of `root`, or of its parent where `root` is the transformer's folder of a larger model."""
    layout = read_layout(root)
    if not layout.is_sentence_transformers and (root.parent / "modules.json").is_file():
        around = read_layout(root.parent)
        if around.transformer and around.transformer_folder == root:
            return around
    return layout


def quantisation_of(base: BaseModel) -> str | None:
    """The name of the method that the base's weights are packed with, or None."""
    quantization = base.config.get("quantization_config")
    if not isinstance(quantization, dict):
        return None
    method = str(quantization.get("quant_method", "an unknown method"))
    if quantization.get("load_in_4bit") or quantization.get("_load_in_4bit"):
        return f"{method} (4-bit)"
    return f"{method} (8-bit)" if quantization.get("load_in_8bit") or quantization.get("_load_in_8bit") else method


def vocabulary_sizes(base: BaseModel) -> set[int]:
    """How many rows token embeddings and the heads over tokens have, in the model and in the models within it."""
    parts = [base.config, *(part for part in base.config.values() if isinstance(part, dict))]
    return {part["vocab_size"] for part in parts if isinstance(part.get("vocab_size"), int)}
