"""Layer numbers in module names."""

from __future__ import annotations

import pytest

from ingraft.naming.numbers import NUMBER, layer_span


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("encoder.layer.11.attention.self.query", ["11"]),
        ("0.auto_model.layer.3.x", ["0", "3"]),
        ("layers.2.experts.7.w1.weight", ["2", "7"]),
        ("layers.2", []),
        ("block2.x", []),
        ("pooler.dense", []),
    ],
)
def test_numbers(name: str, numbers: list[str]) -> None:
    assert NUMBER.findall(name) == numbers


def test_layer_span() -> None:
    assert layer_span(["layer.0.query", "layer.0.value", "layer.1.query"]) == "2 layers"
    assert layer_span(["layer.0.query"]) == "1 layer"
    assert layer_span(["pooler"]) == ""
