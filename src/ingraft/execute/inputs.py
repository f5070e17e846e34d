"""Adapter tensors and row formulas, made when the first block of an edit needs them and dropped after the last."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles, read_into
from ingraft.errors import UnusableInput, first_line
from ingraft.methods.table import formula
from ingraft.steps import IN_MEMORY, REPLACE, ZERO, Edit, MergeStep

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
BLOCK_ELEMENTS = 1 << 19
# Formulas that are sums and products alone: in float64 their result is the exact one, rounded once.
_EXACT = (
    "lora:lora",
    "lora:lora_embedding",
    "lora:lora_expert",
    "lora:lora_bias",
    "lora:lora_block_diagonal",
    "dora:dora",
)

RowFormula = Callable[[Tensor, slice], Tensor]
Memory = Mapping[str, Tensor]  # parameters that PEFT merged, by the running model's name


def read_tensor(files: OpenFiles, info: TensorInfo) -> Tensor:
    """The tensor of `info` in its stored dtype."""
    buffer = bytearray(info.nbytes)
    read_into(files.get(info.file), info.start, buffer)
    if not buffer:
        return torch.empty(info.shape, dtype=TORCH_DTYPES[info.dtype])
    return torch.frombuffer(buffer, dtype=TORCH_DTYPES[info.dtype]).reshape(info.shape)


def arithmetic(step: MergeStep) -> torch.dtype:
    """The dtype that a step is computed in: float32 is more than enough for bfloat16, and what most formulas take."""
    formulas = {edit.formula for edit in step.edits} - {REPLACE, ZERO, IN_MEMORY}
    return torch.float64 if step.dtype != "BF16" and formulas <= set(_EXACT) else torch.float32


def read_adapter_tensor(files: OpenFiles, info: TensorInfo, dtype: torch.dtype = torch.float32) -> Tensor:
    """An adapter tensor in `dtype` (integers as they are), finite, or UnusableInput."""
    if info.dtype not in TORCH_DTYPES:
        raise UnusableInput(f"{info.file}: {info.name} has the dtype {info.dtype}, which cannot be merged.")
    tensor = read_tensor(files, info)
    if not tensor.is_floating_point():
        return tensor
    tensor = tensor.to(dtype)
    if not torch.isfinite(tensor).all():
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
    def dtype(self) -> torch.dtype:
        """What the base weight is stored in."""
        return TORCH_DTYPES[self.source.dtype]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        out, width = self.edit.shape
        start, stop = self.edit.elements
        if stop - start != out * width:
            raise UnusableInput(
                f"{self.edit.target} lies in several parts of {self.source.name}; its method needs it whole."
            )
        info, size = self.source, self.source.nbytes // max(self.source.elements, 1)
        if self.edit.transposed:
            whole = TensorInfo(
                info.name, info.dtype, (width, out), info.file, info.start + start * size, info.start + stop * size
            )
            yield slice(0, out), read_tensor(self.files, whole).float().T.contiguous()
            return
        step = max(1, BLOCK_ELEMENTS // max(width, 1))
        for row in range(0, out, step):
            rows = min(step, out - row)
            first = info.start + (start + row * width) * size
            block = TensorInfo(info.name, info.dtype, (rows, width), info.file, first, first + rows * width * size)
            yield slice(row, row + rows), read_tensor(self.files, block).float()


def build(files: OpenFiles, step: MergeStep, edit: Edit, memory: Memory) -> RowFormula:
    """The row formula (for a bias: a formula of [rows] vectors) of one edit."""
    if edit.formula == ZERO:
        return lambda weight, at: torch.zeros_like(weight)
    if edit.formula == IN_MEMORY:
        merged = memory[edit.parameter]
        merged = merged.T if edit.transposed else merged.reshape(edit.shape if edit.part == "weight" else (-1,))
        return lambda weight, at: merged[at]
    if edit.formula == REPLACE:
        info = edit.inputs["value"]
        return lambda weight, at: read_adapter_tensor(files, _rows(info, edit, at), arithmetic(step))
    inputs = {name: read_adapter_tensor(files, info, arithmetic(step)) for name, info in edit.inputs.items()}
    function = formula(edit.formula)
    wanted = inspect.signature(function).parameters
    arguments: dict[str, Any] = {
        name: inputs.get(name, edit.settings.get(name))
        for name in wanted
        if name not in ("base", "bias") and (name in inputs or name in edit.settings or _has_no_default(wanted[name]))
    }
    try:
        if edit.part == "bias":
            return lambda bias, at: function(bias, **arguments)[at]
        if "base" in wanted:
            assert step.source is not None
            arguments["base"] = BaseRows(files, step.source, edit)
        built: RowFormula = function(**arguments)
    except RuntimeError as error:
        raise does_not_fit(edit, error) from None
    return built


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
