"""Formulas of arrays need no torch; those that are operators alone give the same numbers from tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from ingraft.methods.table import METHODS, formula, takes_arrays

RANDOM = np.random.default_rng(0)


def numbers(*shape: int) -> Any:
    return RANDOM.standard_normal(shape)


CASES: Mapping[str, Mapping[str, Any]] = {
    "lora:lora": {"lora_A": numbers(3, 8), "lora_B": numbers(6, 3), "scale": 0.5},
    "lora:lora_embedding": {"lora_embedding_A": numbers(3, 6), "lora_embedding_B": numbers(8, 3), "scale": 0.5},
    "lora:lora_expert": {"lora_A": numbers(4, 8), "lora_B": numbers(6, 4), "scale": 2.0, "expert": 1, "experts": 2},
    "lora:lora_bias": {"lora_bias": numbers(6), "scale": 0.5},
    "dora:dora": {
        "lora_A": numbers(3, 8), "lora_B": numbers(6, 3), "lora_magnitude_vector": numbers(6), "scale": 0.5
    },
    "adalora:adalora": {"lora_A": numbers(3, 8), "lora_B": numbers(6, 3), "lora_E": numbers(3, 1), "scale": 0.5},
    "ia3:ia3": {"ia3_l": numbers(6, 1), "feedforward": False},
    "ia3:ia3_bias": {"ia3_l": numbers(6, 1), "feedforward": False},
    "beft:beft": {"beft_bias": numbers(1, 6)},
}  # fmt: skip
# These take nothing but arrays.
WITH_NUMPY = {"loha:loha", "lokr:lokr", "oft:oft", "oft:boft"}


def named() -> set[str]:
    formulas = {name for row in METHODS for name in (row.formula, row.embedding, row.expert, row.bias) if name}
    return {name for name in formulas if takes_arrays(name)}


def test_every_such_formula_is_tried() -> None:
    assert set(CASES) == named() - WITH_NUMPY


@pytest.mark.parametrize("name", CASES)
def test_arrays_and_tensors_give_the_same(name: str) -> None:
    of_bias = name in {row.bias for row in METHODS}
    weight, at = (numbers(6), slice(0, 6)) if of_bias else (numbers(4, 8), slice(2, 6))
    with_torch = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in CASES[name].items()}
    if of_bias:
        found, expected = formula(name)(weight, **CASES[name]), formula(name)(torch.from_numpy(weight), **with_torch)
    else:
        expected = formula(name)(**with_torch)(torch.from_numpy(weight.copy()), at)
        found = formula(name)(**CASES[name])(weight, at)

    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)


def test_they_import_no_torch() -> None:
    files = sorted({name.partition(":")[0] for name in named()})
    code = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(f'ingraft.methods.{name}')\n"
    command = [sys.executable, "-c", f"{code}print('torch' in sys.modules)", *files]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
