"""FourierFT: a few coefficients of the weight change's two-dimensional spectrum."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def fourierft(fourierft_spectrum: Tensor, *, shape: tuple[int, int], seed: int, scaling: float) -> RowFormula:
    """W' = W + s·Re(IDFT₂(F)), F zero but for n coefficients (Gao et al. 2024, arXiv:2405.03003).

    spectrum: [n]; where its coefficients stand in F is drawn again from the seed. shape: (out, in).
    """
    out, columns = shape
    place = _places(out * columns, len(fourierft_spectrum), seed)
    used, column = torch.unique(place % columns, return_inverse=True)
    # Down the columns that have a coefficient the transform is done once; along rows when they are asked for.
    dense = torch.zeros(out, len(used), dtype=torch.complex64)
    dense[place // columns, column] = fourierft_spectrum.to(torch.complex64)
    half_done = torch.fft.ifft(dense, dim=0)

    def rows(weight: Tensor, at: slice) -> Tensor:
        spectrum = torch.zeros(weight.shape, dtype=torch.complex64)
        spectrum[:, used] = half_done[at]
        return weight.add_(torch.fft.ifft(spectrum, dim=1).real, alpha=scaling)

    return rows


@lru_cache(maxsize=8)
def _places(elements: int, count: int, seed: int) -> Tensor:
    """The first `count` of a random permutation of all elements (8 bytes each while it is drawn)."""
    return torch.randperm(elements, generator=torch.Generator().manual_seed(seed))[:count].clone()
