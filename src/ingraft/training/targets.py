"""Which layers get an adapter: for `auto`, the linear layers of the transformer's repeated blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingraft.errors import UnusableInput, nearest

if TYPE_CHECKING:
    from torch import nn

# They choose an expert for each token: a delta on them moves tokens about instead of adapting anything.
_ROUTERS = {"gate", "router"}


@dataclass(frozen=True)
class Targets:
    """`names` as PEFT takes them: ends of module names. `excluded`: modules that a name would hit by chance."""

    names: tuple[str, ...]
    excluded: tuple[str, ...]


def choose_targets(transformer: nn.Module, wanted: str = "auto", *, norms: bool = False) -> Targets:
    """The targets that `wanted` stands for: `auto`, or names separated by commas.

    `auto` takes q, k, v and all dense layers of each block, which measured better than q and v alone, and leaves
    out what is not part of a block: a pooler, whose output no embedding uses, or a head. A name without a dot
    stands for the layers of that name in the blocks, where there are any. With `norms` it takes the blocks' norms.
    UnusableInput when a name fits none.
    """
    linear, blocks = _norms(transformer) if norms else _linear_layers(transformer), _blocks(transformer)
    in_blocks = [name for name in linear if any(name.startswith(f"{block}.") for block in blocks)]
    adaptable = [name for name in in_blocks or linear if not _ROUTERS & set(name.split("."))]
    if wanted.strip() == "auto":
        names = tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in adaptable))
        if not names:
            raise UnusableInput(
                f"{type(transformer).__name__} has no {'norms' if norms else 'linear layers'} to adapt.",
                hint="Name layers with --target-modules.",
            )
    else:
        names = tuple(dict.fromkeys(part.strip() for part in wanted.split(",") if part.strip()))
        _check_names(transformer, names)
    hit_in_blocks = {name for name in names if "." not in name and any(_ends(layer, name) for layer in in_blocks)}
    kept = set(adaptable) if wanted.strip() == "auto" else set(in_blocks)
    excluded = tuple(
        layer for layer in linear if layer not in kept and any(_ends(layer, name) for name in hit_in_blocks)
    )
    return Targets(names, excluded)


def check_modules(transformer: nn.Module, wanted: tuple[str, ...]) -> None:
    """UnusableInput when the transformer has no module of a name, which is compared by its end."""
    names = [name for name, _ in transformer.named_modules() if name]
    for name in wanted:
        if not any(_ends(module, name) for module in names):
            ends = dict.fromkeys(module.rsplit(".", 1)[-1] for module in names)
            raise UnusableInput(
                f"{type(transformer).__name__} has no module called {name}{nearest(name, ends)}, which "
                "--modules-to-save names."
            )


def _linear_layers(transformer: nn.Module) -> list[str]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in transformer.named_modules() if isinstance(module, (nn.Linear, Conv1D))]


def _norms(transformer: nn.Module) -> list[str]:
    """Layers whose class is called a norm, of whatever library: LayerNorm, RMSNorm, Qwen3RMSNorm."""
    return [name for name, module in transformer.named_modules() if type(module).__name__.endswith("Norm")]


def _blocks(transformer: nn.Module) -> list[str]:
    """The repeated parts of a transformer: what stands in its module lists."""
    from torch import nn

    return [
        f"{name}.{number}" if name else number
        for name, module in transformer.named_modules()
        if isinstance(module, nn.ModuleList)
        for number, _ in module.named_children()
    ]


def _check_names(transformer: nn.Module, names: tuple[str, ...]) -> None:
    modules = [name for name, module in transformer.named_modules() if name and not list(module.children())]
    for name in names:
        if not any(_ends(module, name) for module in modules):
            ends = dict.fromkeys(module.rsplit(".", 1)[-1] for module in modules)
            raise UnusableInput(
                f"{type(transformer).__name__} has no layer called {name}{nearest(name, ends)}.",
                hint="--target-modules auto chooses; the layers are called: " + ", ".join(ends),
            )
    if not names:
        raise UnusableInput("--target-modules is empty; expected names of layers, or auto.")


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
