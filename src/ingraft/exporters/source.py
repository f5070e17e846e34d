"""The merged model that an export starts from, live in float32; what cannot be exported is refused here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ingraft.adapted.sentence import load_model
from ingraft.checkpoint import open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.files import human_bytes, read_json_object
from ingraft.hub import local_directory
from ingraft.layout import TRANSFORMER_TYPES, Layout, read_layout
from ingraft.machine import available_memory
from ingraft.output_files import SIGNATURE

# The live model in float32, its graph while it is written, and the session that runs it.
_COPIES = 3
_RUNTIME_MEMORY = 1_000_000_000


@dataclass(frozen=True)
class Source:
    """A merged model: its directory and `live`, the same in memory.

    model_class  name of the Sentence Transformers class
    parameters   number of the transformer's weights
    nbytes       size of the transformer's weight files
    """

    layout: Layout
    live: Any
    model_class: str
    parameters: int
    nbytes: int

    @property
    def root(self) -> Path:
        return self.layout.root

    @property
    def architecture(self) -> str:
        return type(self.live[0].model).__name__

    @property
    def name(self) -> str:
        return self.root.absolute().name


def open_layout(model: str | Path, *, static: bool = False) -> Layout:
    """The layout of the merged model in `model`. UnusableInput for adapters and for models without one transformer.

    static  a model of word vectors, which has no transformer, will do as well
    """
    root = local_directory(model, role="merged model")
    layout = read_layout(root)
    for folder in (root, layout.transformer_folder):
        if (folder / "adapter_config.json").is_file():
            raise UnusableInput(
                f"{root} holds an adapter, {folder / 'adapter_config.json'}; expected a merged model.",
                hint=f"Run first: ingraft merge {root} merged",
            )
    if len(layout.transformers) > 1 or any(module.kind == "Router" for module in layout.modules):
        raise UnusableInput(f"{root} has several transformers behind a Router; a graph holds one.")
    if static and layout.modules and layout.modules[0].kind == "StaticEmbedding":
        return layout
    if layout.modules and layout.modules[0].kind not in TRANSFORMER_TYPES:
        raise UnusableInput(f"{root} begins with a {layout.modules[0].kind}; expected a Transformer.")
    config = layout.transformer_folder / "config.json"
    if not config.is_file():
        raise UnusableInput(f"{root} is not a model: {config} does not exist.", hint=f"Run: ingraft inspect {root}")
    if layout.model_class is None and _classifies(read_json_object(config).get("architectures")):
        return replace(layout, model_class="CrossEncoder")
    return layout


def open_source(model: str | Path, *, trust_remote_code: bool) -> Source:
    """Load the merged model in `model` on the CPU, in float32. UnusableInput when it cannot be loaded or exported."""
    layout = open_layout(model)
    checkpoint = open_checkpoint(layout.transformer_folder)
    needed = _COPIES * 4 * checkpoint.elements + _RUNTIME_MEMORY
    free = available_memory()
    if free is not None and needed > free:
        raise UnusableInput(
            f"Exporting {layout.root} takes about {human_bytes(needed)} of memory, {human_bytes(free)} are free."
        )
    live = load_model(layout, f"The merged model {layout.root}", trust_remote_code=trust_remote_code, dtype="float32")
    model_class = layout.model_class or "SentenceTransformer"
    return Source(layout, live, model_class, checkpoint.elements, checkpoint.nbytes)


def weight_files(layout: Layout) -> tuple[Path, ...]:
    """The transformer's weights in every torch format: shards, their index, pickled twins."""
    found = []
    for pattern in ("model*.safetensors", "model*.safetensors.index.json", "pytorch_model*.bin*"):
        found += sorted(layout.transformer_folder.glob(pattern))
    return tuple(found)


def carried_files(layout: Layout, *, weights: bool) -> tuple[Path, ...]:
    """Files of the model that an export takes along, relative to its root.

    Hidden ones, other exports and the signature, which is one of the whole directory, stay.
    """
    left = set() if weights else set(weight_files(layout))
    found = []
    for folder, folders, names in os.walk(layout.root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in ("onnx", "openvino"))
        paths = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        found += [path.relative_to(layout.root) for path in paths if path not in left and path.name != SIGNATURE]
    return tuple(found)


def _classifies(architectures: object) -> bool:
    return isinstance(architectures, list) and any(
        str(name).endswith("ForSequenceClassification") for name in architectures
    )
