"""Random probes of edited tensors, with limits that follow from rounding once to the stored dtype.

Rounding moves an element w by at most u·|w| (u: half the dtype's epsilon) and, on average over mantissas, with a
variance below (u·w)²/3. So the error of row i in W′·x has a variance below V_i = Σ_j (u·w′_ij·x_j)²/3, plus what the
float32 sums themselves lose. Two limits: no row beyond eight times √V_i, and the mean of error²/V over the rows not
above one. The second finds errors far below the rounding of a single row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.numbers import EPSILON, STORED, narrow, widen
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.kernels import bfloat16
from ingraft.kernels.buffers import Array
from ingraft.steps import REPLACE, ZERO, Edit, MergeStep
from ingraft.verification.read import CHUNK_ELEMENTS, load, load_float
from ingraft.verification.truth import Truth, random_input

ROW_LIMIT = 8.0
FLOAT32_UNIT = 2.0**-24
TOKENS = "tokens:trainable_tokens"


@dataclass(frozen=True)
class ProbeResult:
    """`ratio` is the measured error as a share of its limit; not a number counts as beyond it."""

    where: str
    ratio: float

    @property
    def passed(self) -> bool:
        return self.ratio <= 1.0


def probe_step(files: OpenFiles, truth: Truth, step: MergeStep, written: TensorInfo) -> tuple[ProbeResult, ...]:
    """One result per edited part of a tensor, and one for the rest of it."""
    groups: dict[tuple[int, int], list[Edit]] = {}
    for edit in step.edits:
        groups.setdefault(edit.elements, []).append(edit)
    results = [_probe_part(files, truth, step, written, edits) for edits in groups.values()]
    covered = sum(stop - start for start, stop in groups)
    if covered < step.elements:
        results.append(_probe_rest(files, step, written, sorted(groups)))
    return tuple(results)


def _probe_part(files: OpenFiles, truth: Truth, step: MergeStep, written: TensorInfo, edits: list[Edit]) -> ProbeResult:
    last = edits[-1]
    replaced = next((edit for edit in edits if edit.formula == REPLACE), None)
    start, stop = last.elements
    where = f"{last.target} in {step.tensor}"
    if last.formula == REPLACE:
        return ProbeResult(where, 0.0 if _replaced(files, written, last) else float("inf"))
    if last.formula == ZERO:
        found = load(files, written, start, stop, slot=1)
        return ProbeResult(where, float("inf") if found.any() else 0.0)
    base = step.source if replaced is None else replaced.inputs["value"]
    assert base is not None
    if last.formula == TOKENS:
        return ProbeResult(where, 0.0 if _has_saved_rows(files, truth, base, written, last) else float("inf"))
    if last.part == "bias":
        return ProbeResult(where, _bias_ratio(files, truth, base, written, last))
    width = last.shape[1] if not last.transposed else last.rows[1] - last.rows[0]
    seed = int.from_bytes(hashlib.sha256(where.encode()).digest()[:6], "big")
    x = random_input(last.shape[1], seed)
    rows = _Rows(files, base, written, start, stop, width)
    asked = truth.asked(last, x)
    products = rows.products(x, asked) if not last.transposed else rows.products_from_columns(x, asked)
    answer = truth.answer(last, x, products.base, rows.base_blocks)
    return ProbeResult(where, _ratio(products, answer, last.shape[1], written.dtype, truth.noise(last)))


def _replaced(files: OpenFiles, written: TensorInfo, edit: Edit) -> bool:
    """Is the written part the adapter's own numbers, rounded once?"""
    start, stop = edit.elements
    first = edit.rows[0] * edit.shape[1]
    for at in range(start, stop, CHUNK_ELEMENTS):
        end = min(at + CHUNK_ELEMENTS, stop)
        found = load(files, written, at, end, slot=1)
        info = edit.inputs["value"]
        value = load(files, info, first + at - start, first + end - start, slot=0)
        if not same_numbers(value, info.dtype, found, written.dtype):
            return False
    return True


def same_numbers(given: Array, given_dtype: str, found: Array, dtype: str) -> bool:
    """Are the stored `found` the stored numbers `given`, rounded once?"""
    if given_dtype != dtype:
        exact = np.empty(given.size, np.float64 if given_dtype == "F64" else np.float32)
        given = narrow(widen(given, given_dtype, exact), dtype, np.empty(given.size, STORED[dtype]))
    return np.array_equal(given, found)


@dataclass(frozen=True)
class _Products:
    """W·x₀ for what the adapted layer asks its base, W′·x and Σ_j (w′_ij·x_j)², by row."""

    base: Array
    merged: Array
    squares: Array


@dataclass(frozen=True)
class _Rows:
    """Elements [start, stop) of two stored tensors as rows of `width`, block by block."""

    files: OpenFiles
    base: TensorInfo
    written: TensorInfo
    start: int
    stop: int
    width: int

    def _blocks(self) -> Iterator[tuple[slice, int, int]]:
        """Rows, and their elements from one to before another."""
        step = max(1, CHUNK_ELEMENTS // self.width)
        count = (self.stop - self.start) // self.width
        for first in range(0, count, step):
            last = min(first + step, count)
            yield slice(first, last), self.start + first * self.width, self.start + last * self.width

    def _load(self, info: TensorInfo, at: int, stop: int, slot: int) -> Array:
        return load_float(self.files, info, at, stop, slot=slot).reshape(-1, self.width)

    def base_blocks(self) -> Iterator[tuple[slice, Array]]:
        """Blocks of the base's rows in float32, each valid until the next."""
        for rows, at, stop in self._blocks():
            yield rows, self._load(self.base, at, stop, 0)

    def products(self, x: Array, asked: Array) -> _Products:
        found = np.empty((4, (self.stop - self.start) // self.width), np.float32)
        for rows, at, stop in self._blocks():
            self._multiply(self.base, at, stop, asked, found[:2, rows])
            self._multiply(self.written, at, stop, x, found[2:, rows])
        return _Products(base=found[0], merged=found[2], squares=found[3])

    def _multiply(self, info: TensorInfo, at: int, stop: int, x: Array, into: Array) -> None:
        """Σ_j w_j·x_j and Σ_j (w_j·x_j)² of the block's rows, into `into` [2, rows]."""
        if info.dtype == "BF16":
            bfloat16.chosen.row_products(load(self.files, info, at, stop, slot=0), x, *into)
        else:
            block = self._load(info, at, stop, 0)
            np.matmul(block, x, out=into[0])
            np.matmul(np.square(block, out=block), x * x, out=into[1])

    def products_from_columns(self, x: Array, asked: Array) -> _Products:
        """The same for a matrix that is stored as [in, out]."""
        sums = np.zeros((3, self.width), np.float32)
        for rows, at, stop in self._blocks():
            part = x[rows]
            sums[0] += asked[rows] @ self._load(self.base, at, stop, 0)
            block = self._load(self.written, at, stop, 1)
            sums[1] += part @ block
            sums[2] += (part * part) @ np.square(block, out=block)
        return _Products(*sums)


def _ratio(products: _Products, answer: Array, width: int, dtype: str, noise: float) -> float:
    """The larger of the two error measures, as a share of its limit."""
    error = products.merged - answer
    unit = EPSILON[dtype] / 2
    scale = products.squares + (np.square(products.base) + np.square(answer)) / width
    variance = products.squares * unit**2 / 3 + scale * (noise * FLOAT32_UNIT) ** 2 * (width + 16) + 1e-37
    relative = np.square(error) / variance
    rows = relative.size
    worst = float(relative.max()) ** 0.5 / ROW_LIMIT
    mean = float(relative.mean()) ** 0.5 / (1.0 + 3.0 / (2.0 * rows) ** 0.5)
    ratio = max(worst, mean)
    return ratio if ratio == ratio else float("inf")


def _bias_ratio(files: OpenFiles, truth: Truth, base: TensorInfo, written: TensorInfo, edit: Edit) -> float:
    start, stop = edit.elements
    before = load_float(files, base, start, stop, slot=0).copy()
    after = load_float(files, written, start, stop, slot=1).astype(np.float64)
    expected = truth.bias(edit, before).astype(np.float64)
    unit = EPSILON[written.dtype] / 2
    allowed = (
        np.abs(after) * unit * 1.01
        + (np.abs(before).astype(np.float64) + np.abs(expected)) * FLOAT32_UNIT * 16 * truth.noise(edit)
        + 1e-37
    )
    return float((np.abs(after - expected) / allowed).max())


def _has_saved_rows(files: OpenFiles, truth: Truth, base: TensorInfo, written: TensorInfo, edit: Edit) -> bool:
    """Trained tokens: the saved rows in their places, the base's everywhere else, rounded once."""
    indices, width = np.array(edit.settings["indices"]), edit.shape[1]
    saved = truth.tensor(edit.inputs["trainable_tokens_delta"])
    rows = max(1, CHUNK_ELEMENTS // width)
    for first in range(0, edit.shape[0], rows):
        last = min(first + rows, edit.shape[0])
        start, stop = edit.elements[0] + first * width, edit.elements[0] + last * width
        expected = load_float(files, base, start, stop, slot=0).reshape(-1, width)
        here = (indices >= first) & (indices < last)
        expected[indices[here] - first] = saved[here]
        if not same_numbers(expected.reshape(-1), "F32", load(files, written, start, stop, slot=1), written.dtype):
            return False
    return True


def _probe_rest(files: OpenFiles, step: MergeStep, written: TensorInfo, parts: list[tuple[int, int]]) -> ProbeResult:
    """Elements of an edited tensor that no edit is for must be the base's numbers."""
    assert step.source is not None
    at = 0
    for start, stop in [*parts, (step.elements, step.elements)]:
        for begin in range(at, start, CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, start)
            given, found = load(files, step.source, begin, end, slot=0), load(files, written, begin, end, slot=1)
            if not same_numbers(given, step.source.dtype, found, written.dtype):
                return ProbeResult(f"the rest of {step.tensor}", float("inf"))
        at = stop
    return ProbeResult(f"the rest of {step.tensor}", 0.0)
