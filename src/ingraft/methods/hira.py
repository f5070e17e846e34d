"""HiRA: the base weight times a low-rank product, element by element."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def hira(
    hira_A: Tensor | None = None,
    hira_B: Tensor | None = None,
    hira_embedding_A: Tensor | None = None,
    hira_embedding_B: Tensor | None = None,
) -> RowFormula:
    """W' = W + W ∘ (B·A) (Huang et al. 2025, openreview.net/forum?id=TwJrTz9cRS).

    A: [r, in], B: [out, r]; of convolutions A: [r, in, k, k], B: [out, r, 1, 1]; of embeddings A: [r, V],
    B: [d, r], and the product is transposed.
    """
    if hira_embedding_A is not None and hira_embedding_B is not None:
        left, right = hira_embedding_A.T, hira_embedding_B.T
    elif hira_A is not None and hira_B is not None:
        left, right = hira_B.flatten(1), hira_A.flatten(1)
    else:
        raise ValueError("neither hira_A and hira_B nor their embedding twins")

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.mul_((left[at] @ right).add_(1))

    return rows
