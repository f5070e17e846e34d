"""Which files besides the transformer's weights make up the merged model, and from where each comes.

The adapter directory's version wins where it is a Sentence Transformers directory: it is what was trained. Adapter
files, other copies of the unmerged weights and a trainer's state are left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ingraft.adapter import Adapter
from ingraft.layout import Layout

WEIGHT_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".npz",
    ".tflite", ".mlmodel", ".xml", ".engine", ".pkl", ".pickle", ".joblib", ".data",
}  # fmt: skip
# Folders in which exporters put the same weights in another format.
EXPORT_FOLDERS = {"onnx", "openvino", "coreml", "tflite", "gguf", "neuron", "openvino_model"}
TRAINER_FILES = {"trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "latest"}
TOKENIZER_FILES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json",
    "merges.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "bpe.codes",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
}  # fmt: skip


@dataclass(frozen=True)
class CarriedFile:
    """A file that is copied as it is: from `source` to `path` below the output."""

    source: Path
    path: str


@dataclass(frozen=True)
class OutputFiles:
    """`layout` is the merged model's; `left_behind` are the base's files that would be stale or useless in it."""

    layout: Layout
    carried: tuple[CarriedFile, ...]
    left_behind: tuple[str, ...]


def output_files(base: Layout, adapter: Adapter, adapter_layout: Layout) -> OutputFiles:
    """Every file of the output except the transformer's weights and the manifest."""
    layout = adapter_layout if adapter_layout.is_sentence_transformers else base
    carried: dict[str, Path] = {}
    left: list[str] = []
    for path in _walk(base.root):
        target = _place_of_base_file(path, base, layout)
        if target is None:
            left.append(str(path))
        else:
            carried[target] = base.root / path
    for path in _walk(adapter.root):
        target = _place_of_adapter_file(path, adapter, adapter_layout, layout)
        if target is not None:
            carried[target] = adapter.root / path
    files = tuple(CarriedFile(source, path) for path, source in sorted(carried.items()))
    return OutputFiles(layout, files, tuple(left))


def _walk(root: Path) -> Iterator[PurePosixPath]:
    """Files below `root`, relative, without hidden ones and caches."""
    for path in sorted(root.rglob("*")):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if not hidden and path.is_file():
            yield relative


def _place_of_base_file(path: PurePosixPath, base: Layout, layout: Layout) -> str | None:
    if _is_adapter_file(path) or path.name in TRAINER_FILES or path.name == "ingraft.json":
        return None
    module = _module_of(path, base)
    if module and module != base.transformer:
        # A module other than the transformer: whole, if the merged model still has it.
        return str(path) if module in layout.other_paths else None
    if path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".index.json") or EXPORT_FOLDERS & set(path.parts[:-1]):
        return None
    if str(path) == "modules.json" and layout is not base:
        return None
    if base.transformer and not path.is_relative_to(base.transformer):
        return str(path)
    return str(PurePosixPath(layout.transformer) / path.relative_to(base.transformer or "."))


def _place_of_adapter_file(
    path: PurePosixPath, adapter: Adapter, adapter_layout: Layout, layout: Layout
) -> str | None:
    name = path.name
    if _is_adapter_file(path) or name in TRAINER_FILES or name.startswith(("rng_state", "global_step", "events.out.")):
        return None
    if not adapter_layout.is_sentence_transformers:
        # A plain PEFT directory: its card and config describe the adapter, its tokenizer is the trained one.
        beside = path.parent in (PurePosixPath("."), PurePosixPath(adapter.folder.relative_to(adapter.root).as_posix()))
        return str(PurePosixPath(layout.transformer) / name) if beside and name in TOKENIZER_FILES else None
    module = _module_of(path, adapter_layout)
    if module and module != adapter_layout.transformer:
        return str(path)
    if name == "config.json" and str(path.parent) in (".", adapter_layout.transformer):
        return None
    if len(path.parts) > 1 and path.parts[0] != adapter_layout.transformer:
        return None  # another adapter's sub-folder, a trainer's checkpoints and the like
    return None if path.suffix in WEIGHT_SUFFIXES or name.endswith(".index.json") else str(path)


def _module_of(path: PurePosixPath, layout: Layout) -> str:
    """The folder of the module that `path` lies in, empty for the root."""
    folders = [module.path for module in layout.modules if module.path]
    return max((folder for folder in folders if path.is_relative_to(folder)), key=len, default="")


def _is_adapter_file(path: PurePosixPath) -> bool:
    return path.name == "adapter_config.json" or path.name.startswith("adapter_model.")
