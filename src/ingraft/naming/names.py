"""The answer of a name look-up: for every parameter of the running model, where its numbers lie in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingraft.checkpoint import TensorInfo
from ingraft.methods.method import LayerKind

if TYPE_CHECKING:
    from ingraft.naming.meta import RuntimeModel


@dataclass(frozen=True)
class Region:
    """A contiguous part of a stored tensor that holds rows of a parameter.

    elements    [start, stop) of the stored tensor, flattened
    rows        the rows [start, stop) of the parameter's matrix that lie there
    expert      index of the parameter's first axis, where the running model stacks experts
    transposed  the part is stored as [in, out]
    """

    tensor: str
    elements: tuple[int, int]
    rows: tuple[int, int]
    expert: int | None = None
    transposed: bool = False

    @classmethod
    def whole(cls, info: TensorInfo, shape: tuple[int, ...]) -> Region:
        """All of a stored tensor, which holds a parameter of `shape`."""
        return cls(info.name, (0, info.elements), (0, shape[0] if shape else 1))


@dataclass(frozen=True)
class Names:
    """Regions by parameter (`encoder.layer.0.attention.self.query.weight`), for those that were asked for.

    missing  parameters that the base does not have
    shapes   of the parameters, as the running model has them
    kinds    of the modules, by module name
    tied     parameter → the parameter whose numbers it shares in the running model
    how      one line for the plan: how names were found
    running  parameter → its name in the running model, where that was built
    runtime  the running model's description, where that was built
    """

    regions: Mapping[str, tuple[Region, ...]]
    missing: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    kinds: Mapping[str, LayerKind]
    how: str
    tied: Mapping[str, str] = field(default_factory=dict)
    running: Mapping[str, str] = field(default_factory=dict)
    runtime: RuntimeModel | None = None

    def in_runtime(self, parameter: str) -> str:
        """The parameter's name in the running model; its own where that was not built."""
        return self.running.get(parameter, parameter)
