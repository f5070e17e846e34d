"""The small files that a merge writes itself: config.json where something in it changed, and the shard index."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from ingraft.base_model import EDITABLE_DTYPES, BaseModel
from ingraft.checkpoint import FLOAT_NAMES, Checkpoint
from ingraft.files import to_json
from ingraft.steps import OutputShard, WrittenFile


def config_changes(
    folder: str, model: BaseModel, shards: Sequence[OutputShard], stored: str | None, *, untied: bool
) -> list[WrittenFile]:
    """config.json of the transformer in `folder`, where it must differ from the base's."""
    config: dict[str, Any] = copy.deepcopy(dict(model.config))
    reasons = []
    if stored and stored != model.checkpoint.dtype:
        _set_dtype(config, FLOAT_NAMES[stored])
        reasons.append(f"dtype {FLOAT_NAMES[stored]}")
    grown = _grown_vocabulary(shards)
    if grown is not None:
        _set_where_found(config, "vocab_size", grown)
        reasons.append(f"vocab_size {grown}")
    if untied:
        _set_where_found(config, "tie_word_embeddings", False)
        config["tie_word_embeddings"] = False
        reasons.append("tie_word_embeddings false")
    if not reasons:
        return []
    return [WrittenFile(str(PurePosixPath(folder) / "config.json"), to_json(config), ", ".join(reasons))]


def _set_dtype(config: dict[str, Any], name: str) -> None:
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    for key in keys:
        config[key] = name
    for part in config.values():
        if isinstance(part, dict) and ("dtype" in part or "torch_dtype" in part):
            _set_dtype(part, name)


def _grown_vocabulary(shards: Sequence[OutputShard]) -> int | None:
    """The new number of rows where the adapter brings an embedding of another size than the base's."""
    for shard in shards:
        for step in shard.steps:
            if (
                step.source is not None
                and step.shape != step.source.shape
                and any(edit.kind == "embedding" for edit in step.edits)
            ):
                return step.shape[0]
    return None


def _set_where_found(config: dict[str, Any], key: str, value: Any) -> None:
    if key in config:
        config[key] = value
        return
    parts = [part for part in config.values() if isinstance(part, dict) and key in part]
    for part in parts or [config]:
        part[key] = value


def index_file(folder: str, checkpoint: Checkpoint, shards: Sequence[OutputShard]) -> WrittenFile | None:
    """model.safetensors.index.json for a base that has an index."""
    if checkpoint.index_metadata is None:
        return None
    weight_map = {step.tensor: PurePosixPath(shard.file).name for shard in shards for step in shard.steps}
    metadata = {**checkpoint.index_metadata, "total_size": sum(s.nbytes for shard in shards for s in shard.steps)}
    parameters = sum(step.elements for shard in shards for step in shard.steps if step.dtype in EDITABLE_DTYPES)
    if "total_parameters" in metadata:
        metadata["total_parameters"] = parameters
    path = PurePosixPath(folder) / "model.safetensors.index.json"
    text = to_json({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})
    return WrittenFile(str(path), text, "names the shards of the output")
