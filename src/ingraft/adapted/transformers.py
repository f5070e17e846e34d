"""The transformers in a live Sentence Transformers model, by the folders that they were loaded from."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from torch import nn

from ingraft.errors import UnusableInput
from ingraft.files import read_json_object
from ingraft.layout import TRANSFORMER_TYPES, Layout

_ROUTERS = ("Router", "Asym")


def transformers_by_folder(live: nn.Module, layout: Layout) -> dict[str, Any]:
    """Folder in `layout` → the transformers model of `live` that came from there.

    Raises UnusableInput for a model whose modules cannot be told apart.
    """
    routed = _routed(live, layout)
    taken = {id(model) for model in routed.values()}
    own = [model for model in _models(live) if id(model) not in taken]
    folders = [module.path for module in layout.modules if module.kind in TRANSFORMER_TYPES]
    folders = [folder for folder in folders if folder not in routed] if layout.modules else [layout.transformer]
    if not folders and not routed:
        folders = [layout.transformer]  # a class of the model's own, told by its config.json
    if len(own) != len(folders):
        raise UnusableInput(f"{layout.root} has {len(folders)} transformers, the model loaded from it has {len(own)}.")
    return {**routed, **dict(zip(folders, own, strict=True))}


def _routed(live: nn.Module, layout: Layout) -> dict[str, Any]:
    entries = [module for module in layout.modules if module.kind in _ROUTERS]
    routers = [module for module in live.modules() if isinstance(getattr(module, "sub_modules", None), nn.ModuleDict)]
    found: dict[str, Any] = {}
    for entry, router in zip(entries, routers, strict=False):
        structure = read_json_object(layout.root / entry.path / "router_config.json").get("structure")
        for route, names in (structure if isinstance(structure, dict) else {}).items():
            for name, module in zip(names, router.sub_modules[route], strict=False):  # type: ignore[index]
                models = _models(module)
                if models:
                    found[str(PurePosixPath(entry.path) / name)] = models[0]
    return found


def _models(root: nn.Module) -> list[Any]:
    """The outermost transformers models below `root`, in order."""
    from transformers import PreTrainedModel

    found: list[Any] = []

    def walk(module: nn.Module) -> None:
        if isinstance(module, PreTrainedModel):
            if all(module is not other for other in found):
                found.append(module)
            return
        for child in module.children():
            walk(child)

    walk(root)
    return found
