"""How far outputs move when weights move by as much as rounding does: the measure of what a comparison may find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def shaken(weights: Sequence[Tensor], unit: float, *, seed: int) -> Iterator[None]:
    """Every weight changed by up to `unit` of itself, evenly distributed, for as long as the context."""
    with torch.no_grad():
        _shake(weights, unit, seed)
        try:
            yield
        finally:
            _shake(weights, -unit, seed)


def _shake(weights: Sequence[Tensor], unit: float, seed: int) -> None:
    """Multiply by 1 + noise, or for a negative unit divide by the same."""
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        for block in torch.split(weight.reshape(-1), 1 << 22) if weight.is_contiguous() else [weight]:
            factor = torch.rand(block.shape, generator=generator).mul_(2 * abs(unit)).add_(1 - abs(unit))
            if unit > 0:
                block.mul_(factor)
            else:
                block.div_(factor)
