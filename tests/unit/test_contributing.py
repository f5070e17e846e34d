"""CONTRIBUTING.md: its worked example is executed as it stands there, its table of layers is that of the linter."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ingraft.methods.method import Method, Target

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "CONTRIBUTING.md"


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


def test_the_table_of_layers_is_the_linters() -> None:
    """In the linter's order; a row of the table may take several of its lines together."""
    [lines] = re.findall(
        r"^layers = \[\n(.*?)^\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    held = [frozenset(re.findall(r"\w+", line)) for line in re.findall('"(.*)"', lines)]
    table = PAGE.read_text("utf-8").partition("| layer | what it knows |")[2].partition("\n\n")[0]
    told = [frozenset(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table.splitlines()[2:]]

    assert frozenset().union(*told) == frozenset().union(*held)
    for row in told:
        while row:
            assert held[0] <= row, f"{sorted(row)} stands in the place of {sorted(held[0])}"
            row -= held.pop(0)
