"""RoAd: the output is turned in pairs and scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


class Base(Protocol):
    """The base weight, float32 blocks of rows."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[slice, Tensor]]: ...


def road(base: Base, road_theta: Tensor, road_alpha: Tensor, *, variant: int, group_size: int) -> RowFormula:
    """W'ᵢ = αᵢ·cos θᵢ·Wᵢ ∓ α'ᵢ·sin θ'ᵢ·Wⱼ for rows i and j half a group apart (Liao et al. 2024, arXiv:2409.00119).

    θ, α: [out/2] (variant 1, shared by the pair), [out] (2, one per row) or [2·out] (4, α' and θ' of their own).
    Minus in the first half of a group, plus in the second. A row's partner may lie in another block: W is held whole.
    """
    own, other = _columns(road_theta, road_alpha, variant, group_size)
    partner = _partner(base.shape[0], group_size)
    whole = torch.empty(base.shape)
    for at, block in base.blocks():
        whole[at] = block

    def rows(weight: Tensor, at: slice) -> Tensor:
        return weight.mul_(own[at, None]).addcmul_(whole[partner[at]], other[at, None])

    return rows


def road_bias(bias: Tensor, road_theta: Tensor, road_alpha: Tensor, *, variant: int, group_size: int) -> Tensor:
    """The same for the bias, since the whole output is turned. [out]"""
    own, other = _columns(road_theta, road_alpha, variant, group_size)
    return bias * own + bias[_partner(len(bias), group_size)] * other


def _columns(theta: Tensor, alpha: Tensor, variant: int, group_size: int) -> tuple[Tensor, Tensor]:
    """What a row and its partner are multiplied with, [out] each."""
    if variant == 4:
        (own_theta, other_theta), (own_alpha, other_alpha) = (
            x.view(-1, 2, group_size).transpose(0, 1).flatten(1) for x in (theta, alpha)
        )
    else:
        if variant == 1:
            theta, alpha = (x.view(-1, 1, group_size // 2).expand(-1, 2, -1).flatten() for x in (theta, alpha))
        own_theta, other_theta, own_alpha, other_alpha = theta, theta, alpha, alpha
    other = (other_alpha * other_theta.sin()).view(-1, 2, group_size // 2)
    signed = other * torch.tensor([-1.0, 1.0])[:, None]
    return own_alpha * own_theta.cos(), signed.flatten()


def _partner(out: int, group_size: int) -> Tensor:
    return torch.arange(out).view(-1, 2, group_size // 2).flip(1).flatten()
