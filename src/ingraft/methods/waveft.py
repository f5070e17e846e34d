"""WaveFT: a few coefficients of the weight change's two-dimensional wavelet transform."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def waveft(
    waveft_spectrum: Tensor, *, shape: tuple[int, int], seed: int, scaling: float, wavelet: str | None
) -> RowFormula:
    """W' = W + s·IDWT(C), C zero but for n coefficients; without a wavelet W + s·C (arXiv:2505.12532).

    spectrum: [n]; where its coefficients stand in C is drawn again from the seed. shape: (out, in).
    """
    place = _places(shape[0] * shape[1], len(waveft_spectrum), seed)
    row, column = place // shape[1], place % shape[1]
    if wavelet is not None:
        return _inverse_transform(waveft_spectrum * scaling, row, column, shape, FILTERS[wavelet])

    def rows(weight: Tensor, at: slice) -> Tensor:
        here = (row >= at.start) & (row < at.stop)
        values = waveft_spectrum[here] * scaling
        return weight.index_put_((row[here] - at.start, column[here]), values, accumulate=True)

    return rows


def _inverse_transform(
    values: Tensor, row: Tensor, column: Tensor, shape: tuple[int, int], low: tuple[float, ...]
) -> RowFormula:
    """One level of synthesis, first along columns for the rows that are asked for, then along these rows.

    C is padded to even sides that give `shape` back and holds four bands. As in PEFT the top right one is
    high-pass along columns (not along rows, as its place suggests), the bottom left one along rows.
    """
    length, lost = len(low), len(low) - 2
    padded = [side + lost + (side + lost) % 2 for side in shape]
    row, column = row + (padded[0] - shape[0]) // 2, column + (padded[1] - shape[1]) // 2
    half_rows, half_columns = padded[0] // 2, padded[1] // 2
    high = tuple((-1) ** i * value for i, value in enumerate(reversed(low)))
    filters = torch.tensor([low, high])  # [2, length]
    along_rows = row // half_rows  # 1: high-pass along the row
    along_columns = column // half_columns
    k, position = row % half_rows, column % half_columns

    def rows(weight: Tensor, at: slice) -> Tensor:
        bands = torch.zeros(len(weight), 2, half_columns)
        for tap in range(length):
            output = 2 * k + tap - lost
            here = (output >= at.start) & (output < at.stop)
            index = (output[here] - at.start, along_rows[here], position[here])
            bands.index_put_(index, values[here] * filters[along_columns[here], tap], accumulate=True)
        delta = torch.nn.functional.conv_transpose1d(bands, filters[:, None, :], stride=2)[:, 0]
        return weight.add_(delta[:, lost : lost + shape[1]])

    return rows


@lru_cache(maxsize=8)
def _places(elements: int, count: int, seed: int) -> Tensor:
    """The first `count` of a random permutation of all elements (8 bytes each while it is drawn)."""
    return torch.randperm(elements, generator=torch.Generator().manual_seed(seed))[:count].clone()


# Low-pass synthesis filters of the orthogonal wavelets (Daubechies 1992); each sums to √2.
# fmt: off
FILTERS: dict[str, tuple[float, ...]] = {
    "db1": (0.70710678119, 0.70710678119),
    "db2": (0.48296291314, 0.83651630374, 0.22414386804, -0.12940952255),
    "db3": (0.33267055295, 0.80689150931, 0.45987750212, -0.13501102001, -0.085441273882, 0.035226291882),
    "db4": (
        0.23037781331, 0.71484657055, 0.63088076793, -0.027983769417, -0.18703481172, 0.030841381836,
        0.032883011667, -0.010597401785,
    ),
    "db5": (
        0.16010239797, 0.6038292698, 0.72430852844, 0.1384281459, -0.24229488707, -0.032244869585,
        0.07757149384, -0.0062414902128, -0.012580751999, 0.0033357252855,
    ),
    "db6": (
        0.11154074335, 0.4946238904, 0.75113390802, 0.31525035171, -0.22626469397, -0.12976686757,
        0.097501605587, 0.02752286553, -0.031582039317, 0.00055384220116, 0.0047772575109,
        -0.0010773010853,
    ),
    "db7": (
        0.077852054085, 0.39653931948, 0.72913209085, 0.46978228741, -0.14390600393, -0.22403618499,
        0.071309219267, 0.080612609151, -0.038029936935, -0.016574541631, 0.012550998556, 0.00042957797292,
        -0.001801640704, 0.00035371379997,
    ),
    "db8": (
        0.054415842243, 0.31287159091, 0.6756307363, 0.58535468365, -0.015829105256, -0.28401554296,
        0.00047248457391, 0.12874742662, -0.017369301002, -0.044088253931, 0.013981027917, 0.0087460940474,
        -0.0048703529935, -0.00039174037338, 0.00067544940645, -0.00011747678412,
    ),
    "db9": (
        0.038077947364, 0.24383467461, 0.60482312369, 0.65728807805, 0.13319738583, -0.29327378328,
        -0.096840783223, 0.14854074934, 0.030725681479, -0.067632829061, 0.00025094711483, 0.022361662124,
        -0.0047232047578, -0.0042815036825, 0.0018476468831, 0.00023038576352, -0.00025196318894,
        3.9347320316e-05,
    ),
    "db10": (
        0.026670057901, 0.18817680008, 0.52720118893, 0.68845903945, 0.28117234366, -0.24984642433,
        -0.19594627438, 0.12736934034, 0.093057364604, -0.071394147166, -0.029457536822, 0.033212674059,
        0.003606553567, -0.010733175483, 0.0013953517471, 0.0019924052952, -0.00068585669496,
        -0.00011646685513, 9.358867032e-05, -1.3264202895e-05,
    ),
    "sym4": (
        0.032223100604, -0.012603967262, -0.099219543577, 0.29785779561, 0.80373875181, 0.49761866763,
        -0.029635527646, -0.075765714789,
    ),
    "sym5": (
        0.019538882735, -0.021101834025, -0.17532808991, 0.016602105765, 0.63397896346, 0.7234076904,
        0.19939753398, -0.039134249302, 0.029519490926, 0.027333068345,
    ),
    "sym6": (
        -0.007800708325, 0.0017677118642, 0.044724901771, -0.021060292512, -0.072637522786, 0.33792942173,
        0.78764114103, 0.49105594193, -0.048311742586, -0.11799011115, 0.0034907120842, 0.015404109327,
    ),
    "sym7": (
        0.010268176709, 0.0040102448715, -0.1078082377, -0.14004724044, 0.28862963175, 0.767764317,
        0.53610191709, 0.017441255087, -0.049552834937, 0.067892693501, 0.030515513166, -0.012636303403,
        -0.0010473848887, 0.0026818145683,
    ),
    "sym8": (
        0.0018899503328, -0.00030292051472, -0.014952258337, 0.0038087520139, 0.049137179674,
        -0.027219029917, -0.051945838108, 0.36444189484, 0.7771857517, 0.48135965126, -0.061273359068,
        -0.14329423835, 0.0076074873249, 0.031695087811, -0.00054213233179, -0.003382415951,
    ),
    "sym9": (
        0.0010694900329, -0.00047315449868, -0.010264064028, 0.0088592674934, 0.062077789303,
        -0.018233770779, -0.1915508313, 0.035272488035, 0.61733844914, 0.71789708276, 0.23876091461,
        -0.054568958431, 0.00058346274613, 0.030224878858, -0.011528210208, -0.013271967782,
        0.00061978088899, 0.0014009155259,
    ),
    "sym10": (
        -0.000459329421, 5.7036083618e-05, 0.0045931735853, -0.00080435893202, -0.020354939812,
        0.0057649120336, 0.049994972077, -0.031990056882, -0.035536740474, 0.38382676107, 0.76951003702,
        0.47169066694, -0.070880535783, -0.15949427888, 0.011609893904, 0.045927239231, -0.0014653825813,
        -0.008641299277, 9.5632670723e-05, 0.00077015980911,
    ),
    "coif1": (
        -0.072732619513, 0.33789766246, 0.85257202021, 0.38486484686, -0.072732619513, -0.015655728136,
    ),
    "coif2": (
        0.016387336463, -0.041464936787, -0.067372554724, 0.38611006682, 0.81272363545, 0.41700518442,
        -0.076488599078, -0.059434418646, 0.023680171947, 0.0056114348194, -0.0018232088709,
        -0.00072054944552,
    ),
    "coif3": (
        -0.0037935128644, 0.0077825964257, 0.023452696142, -0.065771911281, -0.061123390003, 0.40517690241,
        0.79377722263, 0.42848347638, -0.071799821619, -0.082301927106, 0.034555027573, 0.015880544864,
        -0.0090079761367, -0.0025745176881, 0.0011175187708, 0.00046621695982, -7.0983302506e-05,
        -3.4599773197e-05,
    ),
}
# fmt: on
FILTERS |= {"sym2": FILTERS["db2"], "sym3": FILTERS["db3"]}
