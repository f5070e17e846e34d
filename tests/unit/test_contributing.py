"""The worked example in CONTRIBUTING.md is executed as it stands there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ingraft.methods.method import Method, Target

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def example() -> dict[str, dict[str, Any]]:
    """File name in the first comment of each Python block → the block's namespace after execution."""
    namespaces = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE):
        path = re.match(r"# src/ingraft/methods/(\w+)\.py\n", block)
        assert path, f"does not begin with its path below src/ingraft/methods: {block[:60]!r}"
        namespaces[path[1]] = namespace = {"__name__": path[1]}
        exec(compile(block, f"CONTRIBUTING.md: {path[1]}.py", "exec"), namespace)
    return namespaces


@pytest.fixture(scope="module")
def row(example: dict[str, dict[str, Any]]) -> Method:
    (row,) = example["rows_scaling"]["ROWS"]
    assert isinstance(row, Method)
    return row


def test_formula_on_numbers(example: dict[str, dict[str, Any]]) -> None:
    gain = torch.tensor([2.0, -1.0, 0.5])
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    rows = example["scale_rows"]["scale_rows"](gain=gain)

    expected = [[2.0, 4.0], [-3.0, -4.0], [2.5, 3.0]]
    assert rows(weight.clone(), slice(0, 3)).tolist() == expected
    # The executor hands over blocks of rows: row i has gain i in whatever block it comes.
    assert rows(weight[1:3].clone(), slice(1, 3)).tolist() == expected[1:]


def test_row_fits_the_formula(row: Method, example: dict[str, dict[str, Any]]) -> None:
    file, _, function = row.formula.partition(":")
    formula = example[file][function]
    target = Target("query", "linear", (3, 2), {"gain": (3,)})

    arguments = {*row.tensors.values(), *row.settings({"peft_type": row.peft_type}, target, [target])}

    assert set(inspect.signature(formula).parameters) == arguments
    assert formula.__doc__.startswith(row.change)
