"""Which files besides the transformer's weights make up the merged model, and from where each comes.

The adapter directory's version wins where it is a Sentence Transformers directory: it is what was trained. Adapter
files, other copies of the unmerged weights and a trainer's state are left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ingraft.files import read_json_object
from ingraft.layout import Layout

WEIGHT_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".gguf", ".npz",
    ".tflite", ".mlmodel", ".xml", ".engine", ".pkl", ".pickle", ".joblib", ".data",
}  # fmt: skip
# Folders in which exporters put the same weights in another format.
EXPORT_FOLDERS = {"onnx", "openvino", "coreml", "tflite", "gguf", "neuron", "openvino_model"}
TRAINER_FILES = {
    "trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "latest",
    "ingraft_training.yaml", "ingraft_training.json", "run.json",
}  # fmt: skip
TOKENIZER_FILES = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model",
    "bpe.codes", "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
}  # fmt: skip


# Of these, the ones that list tokens.
VOCABULARY_FILES = TOKENIZER_FILES - {
    "tokenizer.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
}  # fmt: skip


MANIFEST = "ingraft.json"
SIGNATURE = "model.sig"  # the name that model-signing proposes
# What a merge says about its output: never taken over from a base or an adapter, of whose files it would speak.
OWN_FILES = {MANIFEST, SIGNATURE}


@dataclass(frozen=True)
class CarriedFile:
    """A file that is copied as it is: from `source` to `path` below the output."""

    source: Path
    path: str


@dataclass(frozen=True)
class LeftFile:
    """A file of the base that the output does not have, by its path there, and why not."""

    path: str
    reason: str


@dataclass(frozen=True)
class OutputFiles:
    """`layout` is the merged model's."""

    layout: Layout
    carried: tuple[CarriedFile, ...]
    left_behind: tuple[LeftFile, ...]


def output_folders(bases: Sequence[Layout], trained: Layout) -> dict[str, str]:
    """Folder of each adapted transformer in the base → in the output, which is laid out as the adapter's directory."""
    if len(bases) == 1 and trained.is_sentence_transformers and len(trained.transformers) == 1:
        return {bases[0].transformer: trained.transformer}
    return {base.transformer: base.transformer for base in bases}


def output_files(
    base: Layout, root: Path, adapter_layout: Layout, adapted: Mapping[str, str], adapter_folders: Sequence[Path]
) -> OutputFiles:
    """Every file of the output except the adapted transformers' weights and the manifest.

    root     the adapter's directory; `adapter_folders` are those in it that hold adapters
    adapted  folder of an adapted transformer in the base → its folder in the output
    """
    layout = adapter_layout if adapter_layout.is_sentence_transformers else base
    carried: dict[str, Path] = {}
    left: list[LeftFile] = []
    for path in _walk(base.root):
        reason = _why_left(path, base, layout, adapted)
        if reason:
            left.append(LeftFile(str(path), reason))
        else:
            carried[_place_of_base_file(path, base, adapted)] = base.root / path
    for path in _walk(root):
        if adapter_layout.is_sentence_transformers:
            target = _place_of_trained_file(path, adapter_layout, adapted)
        else:
            target = _place_of_tokenizer(path, root, layout, adapter_folders)
        if target is not None:
            carried[target] = root / path
    _drop_stale_vocabulary(carried, base.root, left)
    files = tuple(CarriedFile(source, path) for path, source in sorted(carried.items()))
    return OutputFiles(layout, files, tuple(left))


def _drop_stale_vocabulary(carried: dict[str, Path], base: Path, left: list[LeftFile]) -> None:
    """Take the base's vocabulary files out where the adapter brings a tokenizer with another vocabulary."""
    for place in [place for place in carried if PurePosixPath(place).name == "tokenizer.json"]:
        folder = PurePosixPath(place).parent
        own = carried[place]
        if own.is_relative_to(base):
            continue
        for name in VOCABULARY_FILES:
            stale = carried.get(str(folder / name))
            if stale is not None and stale.is_relative_to(base) and not _same_vocabulary(own, stale.parent):
                del carried[str(folder / name)]
                left.append(LeftFile(str(stale.relative_to(base)), "the adapter's tokenizer has another vocabulary"))


def _same_vocabulary(tokenizer: Path, other: Path) -> bool:
    if not (other / "tokenizer.json").is_file():
        return False
    first, second = read_json_object(tokenizer), read_json_object(other / "tokenizer.json")
    return _vocabulary(first) == _vocabulary(second)


def _vocabulary(tokenizer: Mapping[str, Any]) -> tuple[Any, Any]:
    model = tokenizer.get("model")
    return (model.get("vocab") if isinstance(model, dict) else model), tokenizer.get("added_tokens")


def _walk(root: Path) -> Iterator[PurePosixPath]:
    """Files below `root`, relative, without hidden ones and caches."""
    for path in sorted(root.rglob("*")):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if not hidden and path.is_file():
            yield relative


def _why_left(path: PurePosixPath, base: Layout, layout: Layout, adapted: Mapping[str, str]) -> str:
    """Why a file of the base is stale or useless in the output; empty where it goes along."""
    if _is_adapter_file(path):
        return "belongs to an adapter, which would be applied again"
    if _is_trainer_file(path):
        return "a trainer's state"
    if path.name in OWN_FILES:
        return "speaks of the base's own files"
    module = _module_of(path, base)
    if module and module not in adapted:
        # A module other than an adapted transformer: whole, if the merged model still has it.
        return "" if module in layout.paths else "its module is not in the merged model"
    if is_weight_file(path) or EXPORT_FOLDERS & set(path.parts[:-1]):
        return "holds the unmerged weights"
    return "the adapter's directory has its own" if str(path) == "modules.json" and layout is not base else ""


def _place_of_base_file(path: PurePosixPath, base: Layout, adapted: Mapping[str, str]) -> str:
    """Where a file of the base goes: an adapted transformer's folder may have another name in the output."""
    module = _module_of(path, base)
    return str(PurePosixPath(adapted[module]) / path.relative_to(module or ".")) if module in adapted else str(path)


def _place_of_trained_file(path: PurePosixPath, layout: Layout, adapted: Mapping[str, str]) -> str | None:
    """A file of a Sentence Transformers adapter directory: it has its place already."""
    if _is_adapter_file(path) or _is_trainer_file(path) or path.name in OWN_FILES:
        return None
    module = _module_of(path, layout)
    if module and module not in adapted.values():
        return str(path)
    if path.name == "config.json" and str(path.parent) in (".", module):
        return None  # the base's, which its weights belong to
    if len(path.parts) > 1 and not module:
        return None  # another adapter's sub-folder, a trainer's checkpoints and the like
    return None if is_weight_file(path) else str(path)


def _place_of_tokenizer(path: PurePosixPath, root: Path, layout: Layout, adapter_folders: Sequence[Path]) -> str | None:
    """A file of a plain PEFT directory: its card and config describe the adapter, its tokenizer is the trained one."""
    beside = (root / path).parent in (root, *adapter_folders)
    return str(PurePosixPath(layout.transformer) / path.name) if beside and path.name in TOKENIZER_FILES else None


def _module_of(path: PurePosixPath, layout: Layout) -> str:
    """The folder of the module that `path` lies in, empty for the root."""
    return max((folder for folder in layout.paths if path.is_relative_to(folder)), key=len, default="")


def _is_adapter_file(path: PurePosixPath) -> bool:
    return path.name == "adapter_config.json" or path.name.startswith("adapter_model.")


def _is_trainer_file(path: PurePosixPath) -> bool:
    return path.name in TRAINER_FILES or path.name.startswith(("rng_state", "global_step", "events.out."))


def is_weight_file(path: PurePosixPath) -> bool:
    """Does `path` hold weights, in whatever format, or say which files do?"""
    return path.suffix in WEIGHT_SUFFIXES or path.name.endswith(".index.json")
