"""Formulas of rows_other against PEFT's unmerged forward."""

from __future__ import annotations

import peft
import pytest
from peft.tuners.waveft.wavelet import Wavelet
from torch import nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from conformance.formula_harness import LINEAR, Case, below, check_row, config_of, layers, row_of
from ingraft.errors import UnusableInput
from ingraft.methods import rows_other
from ingraft.methods.peanut import ACTIVATIONS
from ingraft.methods.table import method_for
from ingraft.methods.waveft import FILTERS

BIASED = {"tall": LINEAR["tall"], "square": LINEAR["square"]}
TURNED = {"turned": lambda: Conv1D(16, 8), "turned_square": lambda: Conv1D(8, 8)}
ODD = {"odd": lambda: nn.Linear(9, 15), "turned": lambda: Conv1D(11, 8)}


CASES: dict[str, Case] = {
    "fourierft": (
        peft.FourierFTConfig,
        {"n_frequency": 20, "scaling": 30.0, "n_frequency_pattern": {"tall": 30, "wide$|.*square": 10}},
        {**LINEAR, **TURNED},
    ),
    "fourierft-one": (peft.FourierFTConfig, {"n_frequency": 1, "random_loc_seed": 5}, {**LINEAR, **TURNED}),
    "waveft-places": (
        peft.WaveFTConfig,
        {"n_frequency": 20, "use_idwt": False, "scaling": 2.0, "n_frequency_pattern": {"tall": 30}},
        {**LINEAR, **ODD},
    ),
    "waveft-proportional": (
        peft.WaveFTConfig,
        {"n_frequency": 20, "scaling": 2.0, "proportional_parameters": True},
        {**LINEAR, **TURNED},
    ),
    "c3a": (peft.C3AConfig, {"block_size": 4, "block_size_pattern": {"tall": 2}}, LINEAR),
    "shira": (peft.ShiraConfig, {"r": 1}, LINEAR),
    "supertuning": (peft.SupertuningConfig, {"sparsity": 0.8}, LINEAR),
    "supertuning-lora": (
        peft.SupertuningConfig,
        {"sparsity": 0.8, "r": 2, "lora_alpha": 3, "select_top": False},
        LINEAR,
    ),
    "supertuning-default-alpha": (peft.SupertuningConfig, {"sparsity": 0.7, "r": 2}, LINEAR),
    "beft": (peft.BeftConfig, {}, BIASED),
    "deft-relu": (peft.DeftConfig, {"r": 3}, {**LINEAR, **TURNED}),
    "deft-qr": (peft.DeftConfig, {"r": 3, "alpha": 5, "decomposition_method": "qr"}, {**LINEAR, **TURNED}),
    "deft-capped-rank": (
        peft.DeftConfig,
        {"r": 20, "alpha": 5, "decomposition_method": "qr"},
        {**LINEAR, **TURNED},
    ),
    "para": (peft.DeftConfig, {"r": 3, "para": True}, {**LINEAR, **TURNED}),
    "para-qr": (peft.DeftConfig, {"r": 3, "para": True, "decomposition_method": "qr"}, {**LINEAR, **TURNED}),
}
CASES |= {
    f"waveft-{wavelet}": (
        peft.WaveFTConfig,
        {"n_frequency": 20, "scaling": 2.0, "wavelet_family": wavelet},
        {**LINEAR, **ODD},
    )
    for wavelet in ("db1", "db2", "db7", "sym3", "sym8", "coif1", "coif3")
}
CASES |= {
    f"peanut-{activation}": (peft.PeanutConfig, {"r": 3, "act_fn": activation, "scaling": 0.7}, LINEAR)
    for activation in ACTIVATIONS
}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # PEFT's SHiRA
@pytest.mark.parametrize("case", CASES)
def test_formula_is_pefts_forward(case: str) -> None:
    config, factories = config_of(CASES[case]), CASES[case][2]
    assert check_row(row_of(config), below(**factories), config) == len(factories)


def test_every_streamed_row_has_a_case() -> None:
    tested = {row_of(config_of(case)).name for case in CASES.values()}
    assert tested == {row.name for row in rows_other.ROWS if row.route == "streamed"}


@pytest.mark.parametrize("wavelet", FILTERS)
def test_filters_are_pefts(wavelet: str) -> None:
    assert list(FILTERS[wavelet]) == pytest.approx(list(Wavelet(wavelet).rec_lo), abs=1e-9)


def test_rows_know_what_the_formula_files_hold() -> None:
    assert set(FILTERS) == rows_other.WAVELETS
    assert set(ACTIVATIONS) == rows_other.ACTIVATIONS <= set(ACT2FN)


def test_beft_without_a_bias_in_the_base_is_refused() -> None:
    row = method_for({"peft_type": "BEFT"})
    with pytest.raises(UnusableInput, match=r"wide has no bias in the base"):
        check_row(row, layers(wide=LINEAR["wide"]), peft.BeftConfig(target_modules=["wide"]))
