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

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.steps import REPLACE, ZERO, Edit, MergeStep
from ingraft.verification.read import CHUNK_ELEMENTS, DTYPES, load, load_float
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
        value = load_float(files, edit.inputs["value"], first + at - start, first + end - start, slot=0)
        if not torch.equal(value.to(found.dtype), found):
            return False
    return True


@dataclass(frozen=True)
class _Products:
    """W·x₀ for what the adapted layer asks its base, W′·x and Σ_j (w′_ij·x_j)², by row."""

    base: Tensor
    merged: Tensor
    squares: Tensor


@dataclass(frozen=True)
class _Rows:
    """Elements [start, stop) of two stored tensors as rows of `width`, block by block."""

    files: OpenFiles
    base: TensorInfo
    written: TensorInfo
    start: int
    stop: int
    width: int

    def _blocks(self) -> list[tuple[int, int]]:
        step = max(1, CHUNK_ELEMENTS // self.width) * self.width
        return [(at, min(at + step, self.stop)) for at in range(self.start, self.stop, step)]

    def _load(self, info: TensorInfo, at: int, stop: int, slot: int) -> Tensor:
        return load_float(self.files, info, at, stop, slot=slot).view(-1, self.width)

    def base_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of the base's rows in float32, each valid until the next."""
        for at, stop in self._blocks():
            rows = slice((at - self.start) // self.width, (stop - self.start) // self.width)
            yield rows, self._load(self.base, at, stop, 0)

    def products(self, x: Tensor, asked: Tensor) -> _Products:
        base, merged, squares = [], [], []
        x_squares = x * x
        for at, stop in self._blocks():
            base.append(self._load(self.base, at, stop, 0) @ asked)
            block = self._load(self.written, at, stop, 1)
            merged.append(block @ x)
            squares.append(block.mul_(block) @ x_squares)
        return _Products(torch.cat(base), torch.cat(merged), torch.cat(squares))

    def products_from_columns(self, x: Tensor, asked: Tensor) -> _Products:
        """The same for a matrix that is stored as [in, out]."""
        sums = torch.zeros(3, self.width)
        for at, stop in self._blocks():
            here = slice((at - self.start) // self.width, (stop - self.start) // self.width)
            part = x[here]
            sums[0] += asked[here] @ self._load(self.base, at, stop, 0)
            block = self._load(self.written, at, stop, 1)
            sums[1] += part @ block
            sums[2] += (part * part) @ block.mul_(block)
        return _Products(*sums)


def _ratio(products: _Products, answer: Tensor, width: int, dtype: str, noise: float) -> float:
    """The larger of the two error measures, as a share of its limit."""
    error = products.merged - answer
    unit = torch.finfo(DTYPES[dtype]).eps / 2
    scale = products.squares + (products.base.square() + answer.square()) / width
    variance = products.squares * unit**2 / 3 + scale * (noise * FLOAT32_UNIT) ** 2 * (width + 16) + 1e-37
    relative = error.square() / variance
    rows = relative.numel()
    worst = float(relative.max().sqrt()) / ROW_LIMIT
    mean = float(relative.mean().sqrt()) / (1.0 + 3.0 / (2.0 * rows) ** 0.5)
    ratio = max(worst, mean)
    return ratio if ratio == ratio else float("inf")


def _bias_ratio(files: OpenFiles, truth: Truth, base: TensorInfo, written: TensorInfo, edit: Edit) -> float:
    start, stop = edit.elements
    before = load(files, base, start, stop, slot=0).float().clone()
    after = load(files, written, start, stop, slot=1).double()
    expected = truth.bias(edit, before).double()
    unit = torch.finfo(DTYPES[written.dtype]).eps / 2
    allowed = (
        after.abs() * unit * 1.01
        + (before.double().abs() + expected.abs()) * FLOAT32_UNIT * 16 * truth.noise(edit)
        + 1e-37
    )
    return float(((after - expected).abs() / allowed).max())


def _has_saved_rows(files: OpenFiles, truth: Truth, base: TensorInfo, written: TensorInfo, edit: Edit) -> bool:
    """Trained tokens: the saved rows in their places, the base's everywhere else, rounded once."""
    indices, width = torch.tensor(edit.settings["indices"]), edit.shape[1]
    saved = truth.tensor(edit.inputs["trainable_tokens_delta"])
    rows = max(1, CHUNK_ELEMENTS // width)
    for first in range(0, edit.shape[0], rows):
        last = min(first + rows, edit.shape[0])
        start, stop = edit.elements[0] + first * width, edit.elements[0] + last * width
        expected = load(files, base, start, stop, slot=0).float().reshape(-1, width)
        here = (indices >= first) & (indices < last)
        expected[indices[here] - first] = saved[here]
        if not torch.equal(expected.flatten().to(DTYPES[written.dtype]), load(files, written, start, stop, slot=1)):
            return False
    return True


def _probe_rest(files: OpenFiles, step: MergeStep, written: TensorInfo, parts: list[tuple[int, int]]) -> ProbeResult:
    """Elements of an edited tensor that no edit is for must be the base's numbers."""
    assert step.source is not None
    at = 0
    for start, stop in [*parts, (step.elements, step.elements)]:
        for begin in range(at, start, CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, start)
            found = load(files, written, begin, end, slot=1)
            if not torch.equal(load(files, step.source, begin, end, slot=0).to(found.dtype), found):
                return ProbeResult(f"the rest of {step.tensor}", float("inf"))
        at = stop
    return ProbeResult(f"the rest of {step.tensor}", 0.0)
