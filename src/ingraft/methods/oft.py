"""OFT and BOFT: the input is turned, block by block."""

from __future__ import annotations

import numpy as np

from ingraft.methods.arrays import Array, RowFormula


def oft(
    oft_R: Array | None = None,
    oft_embedding_R: Array | None = None,
    *,
    block_size: int,
    neumann_terms: int | None,
    longest: float | None,
) -> RowFormula:
    """W' = W·diag(R₁, R₂, …)ᵀ, each R a rotation of b inputs (Qiu et al. 2023, arXiv:2306.07280).

    oft_R: [in/b, b·(b−1)/2], or one row for all blocks (`block_share`): the upper triangles of skew-symmetric Q.
    oft_embedding_R: the same for the output of an embedding, W' = W·diag(R₁, R₂, …), W: [V, d].
    R = (I − Q)·(I + Q)⁻¹, or with `neumann_terms` the series I + 2Q + 2Q² + …, which turns the other way round.
    `longest` (`coft`): a Q longer than that over the root of their number is shortened to it.
    """
    triangles = oft_R if oft_R is not None else oft_embedding_R
    if triangles is None:
        raise ValueError("neither oft_R nor its embedding twin")
    skew = np.zeros((len(triangles), block_size, block_size), triangles.dtype)
    row, column = np.triu_indices(block_size, 1)
    skew[:, row, column] = triangles
    skew = skew - _transposed(skew)
    if longest is not None:
        limit = longest / len(triangles) ** 0.5
        length = np.linalg.norm(skew, axis=(1, 2), keepdims=True)
        skew = skew * np.minimum(limit / np.maximum(length, 1e-30), 1)
    rotations = _cayley(skew) if neumann_terms is None else _neumann(skew, neumann_terms)
    # Copied: a product with a transposed view takes up to 2.8 times as long.
    factors = np.ascontiguousarray(_transposed(rotations)) if oft_R is not None else rotations
    return lambda weight, at: _turn(weight, factors)


def boft(boft_R: Array, boft_s: Array) -> RowFormula:
    """W' = diag(s)·W·(Mₙ·…·M₁)ᵀ, Mᵢ = Pᵢ·diag(R₁, R₂, …)·Pᵢᵀ (Liu et al. 2023, arXiv:2311.06243).

    boft_R: [n, in/b, b, b], the skew-symmetric half of each counts; s: [out] in any shape. n, the number of butterfly
    factors, is taken from the tensor: without its CUDA extension PEFT trains one, whatever the config says.
    """
    number, blocks, size, _ = boft_R.shape
    rotations = _cayley((boft_R - _transposed(boft_R)) / 2)
    factors = np.ascontiguousarray(_transposed(rotations))
    scales = boft_s.flatten()
    orders = [_butterfly(blocks * size, blocks >> i, size // 2) for i in range(1, number)]

    def rows(weight: Array, at: slice) -> Array:
        weight = _turn(weight, factors[0])  # P₁ = I
        for order, factor in zip(orders, factors[1:], strict=True):
            weight = _turn(weight.take(order.argsort(), axis=1), factor).take(order, axis=1)
        weight *= scales[at, None]
        return weight

    return rows


def _turn(weight: Array, factors: Array) -> Array:
    """W·diag(F₁, F₂, …) for factors [n, b, b], or [1, b, b] for all blocks."""
    turned = np.empty(weight.shape, weight.dtype)
    np.matmul(_blocks(weight, factors), factors, out=_blocks(turned, factors))
    return turned


def _blocks(weight: Array, factors: Array) -> Array:
    """[rows, in] as [n, rows, b], without a copy."""
    return weight.reshape(len(weight), -1, factors.shape[-1]).swapaxes(0, 1)


def _transposed(matrices: Array) -> Array:
    return matrices.swapaxes(-1, -2)


def _cayley(skew: Array) -> Array:
    """(I − Q)·(I + Q)⁻¹, in which the order does not matter."""
    eye = np.eye(skew.shape[-1], dtype=skew.dtype)
    return np.linalg.solve(eye + skew, eye - skew)


def _neumann(skew: Array, terms: int) -> Array:
    """I + 2Q + 2Q² + … + Qᵗ⁻¹, about (I + Q)·(I − Q)⁻¹; as in PEFT three terms are the same as four."""
    terms = 4 if terms == 3 else terms
    result = power = np.broadcast_to(np.eye(skew.shape[-1], dtype=skew.dtype), skew.shape)
    for exponent in range(1, terms):
        power = power @ skew
        result = result + power * (1 if exponent == terms - 1 > 1 else 2)
    return result


def _butterfly(columns: int, groups: int, half_block: int) -> Array:
    """In each of the groups the even half-blocks before the odd ones."""
    halves = np.arange(columns).reshape(groups, -1, half_block)
    return np.concatenate([halves[:, 0::2], halves[:, 1::2]], axis=1).flatten()
