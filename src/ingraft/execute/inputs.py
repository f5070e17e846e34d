"""Adapter tensors and row formulas, made when the first block of an edit needs them and dropped after the last."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ingraft.checkpoint import FLOAT_NAMES, TensorInfo
from ingraft.checkpoint.numbers import STORED, widen
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.errors import UnusableInput, first_line
from ingraft.kernels.buffers import Array
from ingraft.methods.table import formula, takes_arrays
from ingraft.reading import read_into
from ingraft.steps import IN_MEMORY, REPLACE, ZERO, Edit, MergeStep

BLOCK_ELEMENTS = 1 << 19
# Formulas that are sums and products alone: in float64 their result is the exact one, rounded once.
_EXACT = (
    "lora:lora",
    "lora:lora_embedding",
    "lora:lora_expert",
    "lora:lora_bias",
    "block_diagonal:block_diagonal",
    "dora:dora",
)

RowFormula = Callable[[Array, slice], Array]
Memory = Mapping[str, Array]  # float64 values of parameters that PEFT merged, by the running model's name


def read_tensor(files: OpenFiles, info: TensorInfo) -> Array:
    """The tensor of `info` as it is stored."""
    stored = np.empty(info.shape, STORED[info.dtype])
    read_into(files.get(info.file), info.start, stored)
    return stored


def arithmetic(step: MergeStep) -> np.dtype[Any]:
    """The dtype that a step is computed in: float32 is more than enough for bfloat16, and what most formulas take."""
    formulas = {edit.formula for edit in step.edits} - {REPLACE, ZERO, IN_MEMORY}
    return np.dtype(np.float64 if step.dtype != "BF16" and formulas <= set(_EXACT) else np.float32)


def read_adapter_tensor(files: OpenFiles, info: TensorInfo, dtype: Any = np.float32) -> Array:
    """An adapter tensor in `dtype` (integers as they are), finite, or UnusableInput."""
    if info.dtype not in STORED:
        raise UnusableInput(f"{info.file}: {info.name} has the dtype {info.dtype}, which cannot be merged.")
    stored = read_tensor(files, info)
    if info.dtype not in FLOAT_NAMES:
        return stored
    tensor = np.empty(info.shape, dtype)
    widen(stored.reshape(-1), info.dtype, tensor.reshape(-1))
    if not np.isfinite(tensor).all():
        raise UnusableInput(
            f"{info.file}: {info.name} holds NaN or infinity.",
            hint="The training diverged; take an earlier checkpoint.",
        )
    return tensor


@dataclass(frozen=True)
class BaseRows:
    """The base weight that a formula may read while it is built: float32 blocks of rows in order [out, in]."""

    files: OpenFiles
    source: TensorInfo
    edit: Edit

    @property
    def shape(self) -> tuple[int, int]:
        return self.edit.shape

    @property
    def dtype(self) -> str:
        """What the base weight is stored in."""
        return self.source.dtype

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        out, width = self.edit.shape
        start, stop = self.edit.elements
        if stop - start != out * width:
            raise UnusableInput(
                f"{self.edit.target} lies in several parts of {self.source.name}; its method needs it whole."
            )
        if self.edit.transposed:
            yield slice(0, out), np.ascontiguousarray(self._read(start, width, out).T)
            return
        step = max(1, BLOCK_ELEMENTS // max(width, 1))
        for row in range(0, out, step):
            rows = min(step, out - row)
            yield slice(row, row + rows), self._read(start + row * width, rows, width)

    def _read(self, first: int, rows: int, columns: int) -> Array:
        """A matrix of its own, in float32, from element `first` of the source."""
        info, size = self.source, STORED[self.source.dtype].itemsize
        begin = info.start + first * size
        end = begin + rows * columns * size
        stored = read_tensor(self.files, TensorInfo(info.name, info.dtype, (rows * columns,), info.file, begin, end))
        return widen(stored, info.dtype, np.empty(stored.size, np.float32)).reshape(rows, columns)


def build(files: OpenFiles, step: MergeStep, edit: Edit, memory: Memory) -> RowFormula:
    """The row formula (for a bias: a formula of [rows] vectors) of one edit."""
    if edit.formula == ZERO:
        return lambda weight, at: np.zeros_like(weight)
    if edit.formula == IN_MEMORY:
        merged = memory[edit.parameter]
        merged = merged.T if edit.transposed else merged.reshape(edit.shape if edit.part == "weight" else (-1,))
        return lambda weight, at: merged[at]
    if edit.formula == REPLACE:
        info = edit.inputs["value"]
        return lambda weight, at: read_adapter_tensor(files, _rows(info, edit, at), arithmetic(step))
    function = formula(edit.formula)
    inputs = {name: read_adapter_tensor(files, info, arithmetic(step)) for name, info in edit.inputs.items()}
    wanted = inspect.signature(function).parameters
    arguments: dict[str, Any] = {
        name: inputs.get(name, edit.settings.get(name))
        for name in wanted
        if name not in ("base", "bias") and (name in inputs or name in edit.settings or _has_no_default(wanted[name]))
    }
    if "base" in wanted:
        assert step.source is not None
        arguments["base"] = BaseRows(files, step.source, edit)
    if takes_arrays(edit.formula):  # numpy multiplies what torch would refuse
        _refuse_integers(edit)
    else:
        from ingraft.execute.tensors import with_tensors

        function = with_tensors(function, returns_formula=edit.part == "weight")
    try:
        if edit.part == "bias":
            return lambda bias, at: function(bias, **arguments)[at]
        built: RowFormula = function(**arguments)
    except (RuntimeError, ValueError) as error:  # of torch, of numpy
        raise does_not_fit(edit, error) from None
    return built


def _refuse_integers(edit: Edit) -> None:
    for info in edit.inputs.values():
        if info.dtype not in FLOAT_NAMES:
            raise UnusableInput(
                f"{info.file}: {info.name} has the dtype {info.dtype}; expected floating-point numbers.",
                hint="Save the adapter again as float32, bfloat16 or float16.",
            )


def _rows(info: TensorInfo, edit: Edit, at: slice) -> TensorInfo:
    """The rows `at` of a tensor that the adapter holds whole: an embedding may be as large as the rest of the model."""
    rows = edit.shape[0]
    size = info.nbytes // max(rows, 1)
    shape = (at.stop - at.start, *edit.shape[1:]) if edit.part == "weight" else (at.stop - at.start,)
    first, last = info.start + at.start * size, info.start + at.stop * size
    return TensorInfo(info.name, info.dtype, shape, info.file, first, last)


def _has_no_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty


def does_not_fit(edit: Edit, error: Exception) -> UnusableInput:
    reason = first_line(error)
    return UnusableInput(
        f"The adapter's tensors for {edit.target} do not fit its weight of {list(edit.shape)}: {reason}"
    )


class FormulaCache:
    """Row formulas of one step: built by the first thread that asks, forgotten when `parts` blocks are done."""

    def __init__(self, files: OpenFiles, step: MergeStep, parts: int, memory: Memory) -> None:
        self._files, self._step, self._left, self._memory = files, step, parts, memory
        self._lock = threading.Lock()
        self._built: dict[int, RowFormula] = {}

    def get(self, index: int) -> RowFormula:
        with self._lock:
            if index not in self._built:
                self._built[index] = build(self._files, self._step, self._step.edits[index], self._memory)
            return self._built[index]

    def done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._built.clear()
