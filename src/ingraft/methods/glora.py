"""GLoRA: scaled and shifted weight and bias, by low-rank products, vectors or numbers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def glora(
    glora_A_Xd: Tensor | None = None,
    glora_A_Xu: Tensor | None = None,
    glora_A_X: Tensor | None = None,
    glora_A_zeros: Tensor | None = None,
    glora_B_Xd: Tensor | None = None,
    glora_B_Xu: Tensor | None = None,
    glora_B_X: Tensor | None = None,
    glora_B_zeros: Tensor | None = None,
) -> RowFormula:
    """W' = W + W ∘ A + B (Chavan et al. 2023, arXiv:2306.07967).

    A and B, each: Xd·Xu, [out, r] and [r, in]; or X, [out, 1] or [1]; or nothing, saved as zeros, [out, in].
    """
    scaling = _path(glora_A_Xd, glora_A_Xu, glora_A_X, glora_A_zeros)
    shift = _path(glora_B_Xd, glora_B_Xu, glora_B_X, glora_B_zeros)

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.mul_(scaling(at) + 1).add_(shift(at))

    return rows


def glora_bias(
    bias: Tensor,
    glora_C_zeros: Tensor | None = None,
    glora_D_X: Tensor | None = None,
    glora_D_zeros: Tensor | None = None,
    glora_E_X: Tensor | None = None,
    glora_E_zeros: Tensor | None = None,
) -> Tensor:
    """b' = b + b ∘ D + E, where C is nothing (else W·C would be added). D, E: [out] or [1]."""
    scaling, shift = _given(glora_D_X, glora_D_zeros), _given(glora_E_X, glora_E_zeros)
    return bias + bias * scaling + shift


def _path(down: Tensor | None, up: Tensor | None, x: Tensor | None, zeros: Tensor | None) -> Callable[[slice], Tensor]:
    """The rows of a path, broadcastable to [n, in]."""
    if down is not None and up is not None:
        return lambda at: down[at] @ up
    whole = _given(x, zeros)
    return lambda at: whole[at] if whole.dim() == 2 else whole


def _given(x: Tensor | None, zeros: Tensor | None) -> Tensor:
    if x is not None:
        return x
    if zeros is None:
        raise ValueError("a path of GLoRA has no tensor at all")
    return zeros
