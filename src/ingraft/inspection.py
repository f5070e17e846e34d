"""What a directory holds, told from headers and JSON: an adapter or a model. No torch for what headers tell."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingraft.adapter import Adapter, TargetModule, group_tensors, open_adapter
from ingraft.adapter.adapter import CONFIG_FILE
from ingraft.base_model import open_base, read_model_config
from ingraft.checkpoint import Checkpoint, find_weights, open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.hub import local_directory
from ingraft.layout import Layout, read_layout
from ingraft.methods.table import method_for


@dataclass(frozen=True)
class AdapterInspection:
    """An adapter: its method, its settings, its target modules, and its base as far as it can be found here.

    norms  ‖ΔW‖ by target module for LoRA, where they were asked for (reads the weights)
    """

    path: Path
    method: str
    route: str
    reason: str
    settings: Mapping[str, Any]
    targets: tuple[str, ...]
    modules: tuple[str, ...]
    saved: tuple[str, ...]
    tensors: int
    nbytes: int
    parameters: int
    dtype: str
    base: str | None
    revision: str | None
    base_found: bool
    base_nbytes: int | None
    base_parameters: int | None
    norms: Mapping[str, float]


@dataclass(frozen=True)
class ModelInspection:
    """A model directory: its class, its modules, its weights."""

    path: Path
    model_class: str | None
    architecture: str
    modules: tuple[tuple[str, str], ...]
    dtype: str
    dtypes: Mapping[str, int]
    shards: tuple[tuple[str, int], ...]
    tensors: int
    parameters: int
    nbytes: int
    settings: Mapping[str, Any]
    remote_code: tuple[str, ...]


def inspect(
    path: str | Path, base: str | Path | None = None, *, norms: bool = True
) -> AdapterInspection | ModelInspection:
    """Look into an adapter or a model directory (or a Hub id). Raises UnusableInput when it is neither."""
    root = local_directory(path, role="adapter or model")
    layout = read_layout(root)
    if (root / CONFIG_FILE).is_file() or any(root.glob(f"*/{CONFIG_FILE}")):
        return _inspect_adapter(open_adapter(root), base, norms)
    if find_weights(layout.transformer_folder) is None:
        raise UnusableInput(
            f"{root} holds neither a PEFT adapter nor a model: no {CONFIG_FILE}, no weights.",
            hint="Pass the directory that holds adapter_config.json, or the weights.",
        )
    return _inspect_model(layout)


def _inspect_adapter(adapter: Adapter, base: str | Path | None, norms: bool) -> AdapterInspection:
    method = method_for(adapter.config.raw)
    checkpoint = _base_checkpoint(adapter, base)
    modules: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()
    measured: Mapping[str, float] = {}
    if method.tensors or method.replaces:
        grouped = group_tensors(adapter, method)
        modules = tuple(target.module for target in grouped.targets)
        saved = tuple(parameter.parameter for parameter in grouped.saved)
        measured = _lora_norms(adapter, grouped.targets) if norms and method.formula == "lora:lora" else {}
    targets = adapter.config.raw.get("target_modules") or []
    if not isinstance(targets, (str, list)):
        raise UnusableInput(
            f"{adapter.folder / 'adapter_config.json'}: target_modules is {targets!r:.80}, expected names or a pattern."
        )
    return AdapterInspection(
        path=adapter.root,
        method=method.name,
        route=method.route,
        reason=method.reason,
        settings=_settings(adapter),
        targets=(targets,) if isinstance(targets, str) else tuple(sorted(map(str, targets))),
        modules=modules,
        saved=saved,
        tensors=len(adapter.tensors),
        nbytes=adapter.nbytes,
        parameters=sum(info.elements for info in adapter.tensors.values()),
        dtype=next(iter(adapter.tensors.values())).dtype,
        base=adapter.config.base_model,
        revision=adapter.config.revision,
        base_found=checkpoint is not None,
        base_nbytes=checkpoint.nbytes if checkpoint else None,
        base_parameters=checkpoint.elements if checkpoint else None,
        norms=measured,
    )


def _settings(adapter: Adapter) -> Mapping[str, Any]:
    """The config's values that differ from nothing: no nulls, no empty collections, no switched-off options."""
    skipped = {"peft_type", "peft_version", "base_model_name_or_path", "revision", "target_modules", "inference_mode",
               "auto_mapping", "modules_to_save", "megatron_core", "qalora_group_size", "task_type"}  # fmt: skip
    return {
        key: value
        for key, value in sorted(adapter.config.raw.items())
        if key not in skipped and value not in (None, False, "none", [], {}, "")
    }


def _base_checkpoint(adapter: Adapter, base: str | Path | None) -> Checkpoint | None:
    """That of `base`, or of the one that the adapter names where it is on this machine and sound."""
    if base is not None:
        return open_base(adapter, base).checkpoint
    named = adapter.config.base_model
    if named is None or not Path(named).is_dir():
        return None
    try:
        return open_base(adapter, named).checkpoint
    except UnusableInput:
        return None


def _lora_norms(adapter: Adapter, targets: Sequence[TargetModule]) -> Mapping[str, float]:
    """‖s·B·A‖ by module without ever forming B·A: ‖BA‖² = ⟨BᵀB, AAᵀ⟩. Not of convolutions, nor where A and B differ."""
    import numpy

    from ingraft.adapter.arrays import read_array

    norms = {}
    for target in targets:
        names = (
            ("lora_embedding_A", "lora_embedding_B") if "lora_embedding_A" in target.tensors else ("lora_A", "lora_B")
        )
        if not set(names) <= set(target.tensors):
            continue
        a, b = (read_array(adapter.tensors[target.tensors[name]]) for name in names)
        if a is None or b is None or not (a.ndim == b.ndim == 2 and 0 < len(a) == b.shape[1]):
            continue
        with numpy.errstate(all="ignore"):  # NaN and infinity are what it shows then
            a, b = a.astype("f8"), b.astype("f8")
            square = numpy.maximum(numpy.sum((b.T @ b) * (a @ a.T)), 0.0)
            norms[target.module] = float(_scale(adapter, target.module, a.shape[0]) * square**0.5)
    return norms


def _scale(adapter: Adapter, module: str, rank: int) -> float:
    from ingraft.methods.settings import pattern_value

    alpha = pattern_value(adapter.config.raw, "alpha_pattern", module, adapter.config.raw.get("lora_alpha", rank))
    if not isinstance(alpha, (int, float)) or not abs(alpha) <= sys.float_info.max:
        raise UnusableInput(
            f"{adapter.folder / 'adapter_config.json'}: the alpha of {module} is {alpha!r:.80}, expected a number."
        )
    return alpha / (rank**0.5 if adapter.config.raw.get("use_rslora") else rank)


def _first_module(layout: Layout) -> str:
    """What the model begins with, where no config of a transformer says what it is."""
    return layout.modules[0].kind if layout.modules else "unknown"


def _inspect_model(layout: Layout) -> ModelInspection:
    folder = layout.transformer_folder
    config = read_model_config(folder) if (folder / "config.json").is_file() else {}
    checkpoint = open_checkpoint(folder)
    dtypes: dict[str, int] = {}
    for info in checkpoint:
        dtypes[info.dtype] = dtypes.get(info.dtype, 0) + info.elements
    declared = layout.root / "config_sentence_transformers.json"
    settings = read_json_object(declared) if declared.is_file() else {}
    auto_map = config.get("auto_map") or {}
    return ModelInspection(
        path=layout.root,
        model_class=layout.model_class,
        architecture=str((config.get("architectures") or [config.get("model_type", _first_module(layout))])[0]),
        modules=tuple((module.kind, module.path) for module in layout.modules),
        dtype=checkpoint.dtype,
        dtypes=dtypes,
        shards=tuple((shard.path.name, sum(info.nbytes for info in shard.tensors)) for shard in checkpoint.shards),
        tensors=len(checkpoint.tensors),
        parameters=checkpoint.elements,
        nbytes=checkpoint.nbytes,
        settings={
            key: value for key, value in settings.items() if key != "__version__" and value not in (None, {}, [])
        },
        remote_code=tuple(sorted(str(value) for value in auto_map.values())) if isinstance(auto_map, dict) else (),
    )
