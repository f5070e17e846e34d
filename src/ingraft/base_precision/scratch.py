"""The temporary directory of a dequantised base: a complete model directory, whose weights are yet to be written.

Everything that is neither a weight nor the config is a link to the base's own file.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ingraft.base_model import BaseModel
from ingraft.base_precision.dequantised import CopiedTensor, ScratchShard
from ingraft.checkpoint import Checkpoint, Shard, TensorInfo, tensor_nbytes, write_header
from ingraft.checkpoint.checkpoint import WEIGHT_FILES
from ingraft.files import to_json
from ingraft.machine import is_running

_PREFIX = "ingraft-base-"


def scratch_base(
    model: BaseModel,
    config: Mapping[str, Any],
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    computed: frozenset[str],
    dropped: frozenset[str],
) -> tuple[BaseModel, tuple[ScratchShard, ...]]:
    """A model like `model` in a temporary directory that is removed when the process ends.

    tensors   dtype and shape of the tensors that differ in it from the stored ones
    computed  tensors of which no stored number is kept
    dropped   tensors that the copy does not have
    """
    root = _directory()
    _link_files(model, root)
    layout = replace(model.layout, root=root)
    folder = layout.transformer_folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(to_json(dict(config)), encoding="utf-8")
    scratch, shards = [], []
    for shard in model.checkpoint.shards:
        planned = _shard(shard, folder, tensors, computed, dropped)
        if planned.tensors:
            scratch.append(planned)
            # Named after the base's own file: that is what the merge was made from.
            shards.append(Shard(shard.path, tuple(copy.target for copy in planned.tensors), shard.metadata))
    metadata = model.checkpoint.index_metadata
    if metadata is not None:
        index = {"metadata": {}, "weight_map": {t.target.name: s.path.name for s in scratch for t in s.tensors}}
        (folder / "model.safetensors.index.json").write_text(to_json(index), encoding="utf-8")
    checkpoint = Checkpoint(folder, tuple(shards), metadata)
    return BaseModel(model.name, layout, config, checkpoint), tuple(scratch)


def _shard(
    shard: Shard,
    folder: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    computed: frozenset[str],
    dropped: frozenset[str],
) -> ScratchShard:
    path = folder / f"{shard.path.stem.replace('pytorch_model', 'model')}.safetensors"
    kept = [info for info in shard.tensors if info.name not in dropped]
    forms = [(info.name, *tensors.get(info.name, (info.dtype, info.shape))) for info in kept]
    metadata = shard.metadata or {"format": "pt"}
    position = len(write_header(forms, metadata))
    copies = []
    for info, (name, dtype, shape) in zip(kept, forms, strict=True):
        stop = position + tensor_nbytes(dtype, shape)
        target = TensorInfo(name, dtype, shape, path, position, stop)
        copies.append(CopiedTensor(target, info, name in computed))
        position = stop
    return ScratchShard(path, metadata, tuple(copies))


def _directory() -> Path:
    """A new temporary directory; those of processes that were killed are removed."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = left.name.removeprefix(_PREFIX).split("-")[0]
        if process.isdecimal() and not is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _link_files(model: BaseModel, root: Path) -> None:
    own = {shard.path.name for shard in model.checkpoint.shards} | {"config.json"}
    own |= {*WEIGHT_FILES, *(f"{name}.index.json" for name in WEIGHT_FILES)}
    left_out = {model.layout.transformer_folder / name for name in own}
    for path in sorted(model.layout.root.rglob("*")):
        relative = path.relative_to(model.layout.root)
        if path in left_out or not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        target = root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.symlink_to(path.absolute())
        except OSError:  # Windows without the right to make links
            shutil.copyfile(path, target)
