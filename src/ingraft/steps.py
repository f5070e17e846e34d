"""The merge plan as data: everything that will be written, from where, and why. Saved as JSON, printed, executed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ingraft.base_precision import Dequantised
from ingraft.checkpoint import TensorInfo, tensor_nbytes, write_header
from ingraft.layout import Layout
from ingraft.methods.method import LayerKind, Route, Setting
from ingraft.output_files import CarriedFile, LeftFile

Action = Literal["copy", "cast", "edit", "replace", "add"]
REPLACE = "="  # the formula of a tensor that takes the place of the base's
ZERO = "0"  # the formula of a tensor that becomes zero
IN_MEMORY = "peft"  # the formula of a tensor that PEFT merges in memory


@dataclass(frozen=True)
class Edit:
    """One formula, applied to a contiguous part of a stored tensor.

    target    the adapted module; `parameter` is the base's parameter that changes
    part      whether the formula is the method's for weights ([rows, in]) or for biases ([rows])
    formula   reference into `ingraft.methods`; or `=`, the adapter tensor `value` itself; or `0`, zeros; or `peft`,
              what PEFT makes of the parameter in memory
    inputs    parameter of the formula → where its tensor lies in the adapter's file
    settings  the formula's other arguments
    shape     of the whole matrix that the formula is about, (out, in); (out, 1) for a bias
    elements  [start, stop) of the stored tensor, flattened: where the part lies
    rows      the rows [start, stop) of the matrix that lie there
    transposed  the part is stored as [in, out]
    expert    which matrix of a stack of experts this is
    grown     the whole tensor is replaced by one with another number of rows
    """

    target: str
    parameter: str
    part: Literal["weight", "bias"]
    kind: LayerKind
    formula: str
    inputs: Mapping[str, TensorInfo]
    settings: Mapping[str, Setting]
    shape: tuple[int, int]
    elements: tuple[int, int]
    rows: tuple[int, int]
    transposed: bool = False
    expert: int | None = None
    grown: bool = False


@dataclass(frozen=True)
class MergeStep:
    """What becomes of one tensor of the output.

    copy     the base's bytes
    cast     the base's numbers in another dtype
    edit     the base's numbers through one or more formulas, rounded once
    replace  numbers out of the adapter in the place of the base's
    add      a tensor that the base's file does not have: out of the adapter, or the twin of a tied tensor
    """

    action: Action
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorInfo | None
    edits: tuple[Edit, ...]
    reason: str

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.dtype, self.shape)

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class OutputShard:
    """One weight file of the output: steps in the order of their bytes; `file` is relative to the output."""

    file: str
    steps: tuple[MergeStep, ...]
    metadata: Mapping[str, str]

    def header(self) -> bytes:
        return write_header([(s.tensor, s.dtype, s.shape) for s in self.steps], self.metadata)

    @property
    def nbytes(self) -> int:
        return len(self.header()) + sum(step.nbytes for step in self.steps)


@dataclass(frozen=True)
class WrittenFile:
    """A small file that the merge writes itself: an edited config, a shard index. `reason` says what differs.

    portable  it says the same as the file that it replaces, in words that older readers know too
    """

    path: str
    text: str
    reason: str
    portable: bool = False


@dataclass(frozen=True)
class Source:
    """What a plan says about the base or the adapter."""

    name: str
    root: Path
    weights: tuple[Path, ...]
    nbytes: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MergePlan:
    """Every decision of a merge. Nothing downstream decides anything.

    method, route  of the table of methods
    shards         all tensors of the output
    carried        files copied as they are; `written` files made here; `left_behind` files of the base not taken over
    needed_disk    bytes of the finished output
    needed_memory  bytes, estimated, that the merge takes at most at a time
    dequantised    the temporary plain copy that `base` is read from, where a quantised base was dequantised
    """

    base: Source
    adapter: Source
    method: str
    peft_type: str
    route: Route
    layout: Layout
    names: str
    shards: tuple[OutputShard, ...]
    carried: tuple[CarriedFile, ...]
    written: tuple[WrittenFile, ...]
    left_behind: tuple[LeftFile, ...]
    notes: tuple[str, ...]
    needed_disk: int
    needed_memory: int
    trust_remote_code: bool = False
    dequantised: Dequantised | None = None

    @property
    def given_base(self) -> Path:
        """The base as it was given: where `base` lies, or what its dequantised copy was made from."""
        return self.dequantised.source if self.dequantised else self.base.root

    def steps(self) -> Iterator[MergeStep]:
        for shard in self.shards:
            yield from shard.steps

    def edits(self) -> Iterator[Edit]:
        for step in self.steps():
            yield from step.edits

    def count(self, *actions: Action) -> int:
        return sum(step.action in actions for step in self.steps())

    def to_dict(self) -> dict[str, Any]:
        """The plan in JSON types."""
        return _plain(dataclasses.asdict(self))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
