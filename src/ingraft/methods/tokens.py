"""Trainable tokens: a few rows of an embedding, trained and saved whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def trainable_tokens(trainable_tokens_delta: Tensor, *, indices: tuple[int, ...]) -> RowFormula:
    """W'[indices] = the saved rows, which despite their name are no differences. W: [V, d].

    trainable_tokens_delta: [len(indices), d].
    """
    tokens = torch.tensor(indices, dtype=torch.int64)

    def rows(weight: Tensor, at: slice) -> Tensor:
        here = (tokens >= at.start) & (tokens < at.stop)
        weight[tokens[here] - at.start] = trainable_tokens_delta[here]
        return weight

    return rows
