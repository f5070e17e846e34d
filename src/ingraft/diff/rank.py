"""The rank of B − A: how many of its singular values are too large to be rounding.

Randomised SVD (Halko, Martinsson & Tropp 2011, arXiv:0909.4061) with one power iteration, over blocks of rows. For
D = B − A of [m, n] and a Gaussian G of [k, m]:

    P = orth((G·D)ᵀ)   P ← orth(Dᵀ·(D·P))   σ = singular values of D·P, by a QR that takes one block at a time

in float64. Memory is some k·n numbers and a block. Singular values of D·P never exceed those of D, so that the rank
that is found is never too high.

What counts as rounding: a number w that is rounded once to a dtype of unit u (half its epsilon) is off by an error of
variance at most (u·w)²/3; both sides may have been rounded so. The sums that made the difference d were float32's (or
float64's), of unit v, and may be off by 8·v·d: a low-rank product adds up as many numbers as its rank. A matrix of
independent errors with variances s² has a norm near its largest row plus its largest column, max_i √Σ_j s²_ij +
max_j √Σ_i s²_ij (Bandeira & van Handel 2016, arXiv:1408.6185); a tenth is added. Integers are not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles
from ingraft.diff.numbers import CHUNK_ELEMENTS, NUMBERS, numbers

Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]
# Directions that are looked at: enough for most adapters; and once more, where all of them count.
_DIRECTIONS = (40, 264)
_OVERSAMPLED = 8
_MARGIN = 1.1
_SUMMED = 8.0
# Of sketch and directions together: a bound for matrices with very long rows.
_MOST_NUMBERS = 1 << 23


@dataclass(frozen=True)
class Rank:
    """value      singular values above `tolerance`
    at_least   every direction that was looked at counts: the rank may be higher
    tolerance  the largest singular value that rounding alone may make
    largest    the largest singular value
    """

    value: int
    at_least: bool
    tolerance: float
    largest: float


def rank_of(files: OpenFiles, a: TensorInfo, b: TensorInfo) -> Rank | None:
    """Rank of B − A; of a stack of matrices the largest; None for a vector.

    A convolution's kernel counts as [out, in·k·k]. Both tensors are of one shape, finite, of a dtype in NUMBERS.
    """
    shape = a.shape
    if len(shape) < 2 or 0 in shape:
        return None
    rows, columns = shape[-2:] if len(shape) == 3 else (shape[0], a.elements // shape[0])
    units = _Units(_unit(a.dtype), _unit(b.dtype), _unit_of_sums(a.dtype, b.dtype))
    found = [
        _matrix_rank(_blocks(files, a, b, at * rows * columns, (rows, columns)), (rows, columns), units)
        for at in range(a.elements // (rows * columns))
    ]
    return max(found, key=lambda rank: (rank.value, rank.largest))


@dataclass(frozen=True)
class _Units:
    """Half the epsilon of what A and B are stored in, and of what B − A was computed in."""

    a: float
    b: float
    sums: float


def _unit(dtype: str) -> float:
    """The largest relative error of rounding to `dtype` once; none for integers."""
    kind = NUMBERS[dtype]
    return torch.finfo(kind).eps / 2 if kind.is_floating_point else 0.0


def _unit_of_sums(a: str, b: str) -> float:
    if not _unit(a) and not _unit(b):
        return 0.0
    return 2.0**-53 if a == b == "F64" else 2.0**-24


def _blocks(files: OpenFiles, a: TensorInfo, b: TensorInfo, start: int, shape: tuple[int, int]) -> Blocks:
    """Rows of one matrix of A and of B in float64, block by block, again at every call."""
    rows, columns = shape
    step = max(1, CHUNK_ELEMENTS // columns)

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        for row in range(0, rows, step):
            at, stop = start + row * columns, start + min(row + step, rows) * columns
            left, right = (numbers(files, info, at, stop) for info in (a, b))
            yield left.double().reshape(-1, columns), right.double().reshape(-1, columns)

    return blocks


def _matrix_rank(blocks: Blocks, shape: tuple[int, int], units: _Units) -> Rank:
    tolerance = _rounding_norm(blocks, shape, units)
    rank = Rank(0, False, tolerance, 0.0)
    for count in _DIRECTIONS:
        count = min(count, *shape, max(1, _MOST_NUMBERS // shape[1]))
        complete = count == min(shape)
        values = _singular_values(blocks, shape, count)
        largest = float(values[0])
        # What float64 sums lose is far below any rounding, but integers and zeros are not rounded.
        floor = max(tolerance, largest * max(shape) * torch.finfo(torch.float64).eps)
        found = int((values > floor).sum())
        sought = count if complete else max(1, count - _OVERSAMPLED)
        rank = Rank(min(found, sought), found >= sought and not complete, floor, largest)
        if not rank.at_least:
            break
    return rank


def _rounding_norm(blocks: Blocks, shape: tuple[int, int], units: _Units) -> float:
    columns, largest_row = torch.zeros(shape[1], dtype=torch.float64), 0.0
    for a, b in blocks():
        variance = (a * units.a).square_().add_((b * units.b).square_()).div_(3)
        variance += (b - a).mul_(_SUMMED * units.sums).square_()
        columns += variance.sum(0)
        largest_row = max(largest_row, float(variance.sum(1).max()))
    return _MARGIN * (math.sqrt(largest_row) + math.sqrt(float(columns.max())))


def _singular_values(blocks: Blocks, shape: tuple[int, int], count: int) -> Tensor:
    """The `count` largest singular values of B − A, in descending order, none of them too large."""
    directions = _directions(blocks, shape, count)
    triangle = torch.empty(0, directions.shape[1], dtype=torch.float64)
    for a, b in blocks():
        triangle = torch.linalg.qr(torch.cat([triangle, (b - a) @ directions]), mode="r").R
    values: Tensor = torch.linalg.svdvals(triangle)
    return values


def _directions(blocks: Blocks, shape: tuple[int, int], count: int) -> Tensor:
    """Orthonormal columns, [n, count], that span the largest singular vectors of B − A."""
    if count == shape[1]:
        return torch.eye(count, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    sketch = torch.zeros(count, shape[1], dtype=torch.float64)
    for a, b in blocks():
        sketch += torch.randn(count, len(a), dtype=torch.float64, generator=generator) @ (b - a)
    directions = torch.linalg.qr(sketch.T).Q
    again = torch.zeros_like(directions)
    for a, b in blocks():
        difference = b - a
        again += difference.T @ (difference @ directions)
    found: Tensor = torch.linalg.qr(again).Q
    return found
