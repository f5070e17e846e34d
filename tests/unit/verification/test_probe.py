"""Probes of parts of a tensor, and the two limits of their errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.steps import REPLACE, ZERO, Edit, MergeStep
from ingraft.verification import probe
from ingraft.verification.probe import TOKENS, probe_step
from ingraft.verification.truth import Truth

ROWS, WIDTH = 12, 4


def stored(path: Path, value: Tensor) -> TensorInfo:
    save_file({"w": value}, path)
    return read_header(path).tensors[0]


def edit_of(formula: str, rows: tuple[int, int], inputs: Mapping[str, TensorInfo], **settings: Any) -> Edit:
    """An edit of some rows of a matrix of ROWS × WIDTH."""
    return Edit(
        target="m",
        parameter="m.weight",
        part="weight",
        kind="embedding" if formula == TOKENS else "linear",
        formula=formula,
        inputs=inputs,
        settings=settings,
        shape=(ROWS, WIDTH),
        elements=(rows[0] * WIDTH, rows[1] * WIDTH),
        rows=rows,
    )


def passes(edit: Edit, base: Tensor, written: Tensor, folder: Path) -> bool:
    """Does `written` pass as what `edit` makes of `base`?"""
    source, found = stored(folder / "base.safetensors", base), stored(folder / "written.safetensors", written)
    step = MergeStep("edit", "w", "F32", (ROWS, WIDTH), source, (edit,), "")
    with open_files() as files:
        truth = Truth(cast(Any, None), files)  # these edits are proven without the rest of the plan
        return all(result.passed for result in probe_step(files, truth, step, found))


@pytest.fixture(params=[1 << 20, 2 * WIDTH], ids=["one chunk", "chunks of two rows"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "CHUNK_ELEMENTS", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("row", [None, 0, 2, 3, 8, 9, 11])
def test_rows_that_no_edit_is_for_are_the_bases(row: int | None, tmp_path: Path) -> None:
    """Before, between and after the edited ones; and the edited ones are what the edit makes."""
    base = torch.randn(ROWS, WIDTH)
    right = base.clone()
    right[3:9] = 0
    if row is not None:
        right[row, -1] += 1e-6

    assert passes(edit_of(ZERO, (3, 9), {}), base, right, tmp_path) is (row is None)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("shift", [0, 1, -3])
def test_rows_that_the_adapter_holds_whole(shift: int, tmp_path: Path) -> None:
    """Of a saved parameter that is stored in parts each part gets its own rows."""
    base, value = torch.randn(ROWS, WIDTH), torch.randn(ROWS, WIDTH)
    written = base.clone()
    written[3:9] = value[3 + shift : 9 + shift]
    edit = edit_of(REPLACE, (3, 9), {"value": stored(tmp_path / "adapter.safetensors", value)})

    assert passes(edit, base, written, tmp_path) is (shift == 0)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("wrong", [None, 1, 5, 9])
def test_rows_of_trained_tokens(wrong: int | None, tmp_path: Path) -> None:
    """Saved rows in their places, in whatever order they were saved; all others are the base's."""
    base, rows = torch.randn(ROWS, WIDTH), torch.randn(3, WIDTH)
    indices = [9, 0, 5]
    written = base.clone()
    written[indices] = rows
    if wrong is not None:
        written[wrong, 0] += 1e-6
    inputs = {"trainable_tokens_delta": stored(tmp_path / "adapter.safetensors", rows)}

    assert passes(edit_of(TOKENS, (0, ROWS), inputs, indices=indices), base, written, tmp_path) is (wrong is None)


def share_of_limit(errors: Tensor) -> float:
    """The measure of errors that are given in standard deviations of a bfloat16 rounding."""
    rows, width = len(errors), 64
    nothing = np.zeros(rows, np.float32)
    deviation = torch.finfo(torch.bfloat16).eps / 2 / 3**0.5
    products = probe._Products(nothing, (errors * deviation).numpy(), nothing + 1)
    return probe._ratio(products, nothing, width, "BF16", 1.0)


def test_one_row_may_not_be_far_off() -> None:
    """Among ten thousand others that are exact: their mean says nothing of it."""
    errors = torch.zeros(10_000)
    errors[77] = 7.9
    assert share_of_limit(errors) < 1
    errors[77] = 8.1
    assert share_of_limit(errors) > 1


def test_all_rows_may_not_be_a_little_off() -> None:
    """Each of them alone would be nothing unusual."""
    assert share_of_limit(torch.full((10_000,), 0.99)) < 1
    assert share_of_limit(torch.full((10_000,), 1.05)) > 1
    # of few rows chance makes more
    assert share_of_limit(torch.full((4,), 1.9)) < 1
    assert share_of_limit(torch.full((4,), 2.2)) > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers(value: float) -> None:
    errors = torch.zeros(8)
    errors[3] = value

    assert share_of_limit(errors) == float("inf")
