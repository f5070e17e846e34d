"""What a merge did to each tensor: read from the files, and put in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.handmade import write_adapter, write_base
from helpers.merging import cli
from ingraft.files import read_json_object
from ingraft.plan import plan_merge
from ingraft.report.effects import (
    Place,
    TensorEffect,
    cells,
    measured_effects,
    place,
    places,
    recorded_effects,
    with_losses,
)
from ingraft.steps import MergePlan

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def merge(tmp_path_factory: pytest.TempPathFactory) -> tuple[MergePlan, Path]:
    folder = tmp_path_factory.mktemp("merge")
    base = write_base(folder / "base", dtype=torch.bfloat16)
    adapter = write_adapter(folder / "adapter", base)
    assert cli("merge", adapter, folder / "out").code == 0
    return plan_merge(adapter), folder / "out"


def effect(tensor: str, *, base: float = 1.0, delta: float = 0.1, lost: float | None = 0.01, dtype: str = "BF16"):
    return TensorEffect(tensor, dtype, 10, 5, base, delta, lost)


def test_the_change_is_read_from_the_files(merge) -> None:
    plan, output = merge

    found = {item.tensor: item for item in measured_effects(plan, output)}

    before = load_file(plan.base.root / "model.safetensors")[QUERY].double()
    after = load_file(output / "model.safetensors")[QUERY].double()
    assert len(found) == plan.count("edit") == 4
    assert found[QUERY].delta_norm == pytest.approx(float((after - before).norm()))
    assert found[QUERY].base_norm == pytest.approx(float(before.norm()))
    assert found[QUERY].changed == int((after != before).sum())
    assert found[QUERY].lost is None


def test_what_was_recorded_agrees_with_what_is_read(merge) -> None:
    plan, output = merge
    figures = read_json_object(output / "ingraft.json")["verification"]["figures"]["tensors"]

    recorded = recorded_effects(plan, figures)
    measured = with_losses(measured_effects(plan, output), recorded)

    assert {item.tensor for item in recorded} == {item.tensor for item in measured}
    for one, other in zip(
        sorted(recorded, key=lambda e: e.tensor), sorted(measured, key=lambda e: e.tensor), strict=True
    ):
        assert one.delta_norm == pytest.approx(other.delta_norm, rel=0.01)
        assert one.changed == other.changed
        assert 0 < one.lost == other.lost < 0.1  # type: ignore[operator]


def test_what_cannot_be_read_is_left_out(merge, tmp_path) -> None:
    plan, output = merge

    assert measured_effects(plan, tmp_path) == ()
    (tmp_path / "model.safetensors").write_bytes((output / "model.safetensors").read_bytes()[:-7])
    assert measured_effects(plan, tmp_path) == ()
    assert recorded_effects(plan, [{"tensor": "unknown"}]) == ()


def test_what_float32_would_lose(merge) -> None:
    """The bound holds for the same merge in float32."""
    plan, output = merge
    folder = output.parent
    assert cli("merge", plan.adapter.root, folder / "wide", "--dtype", "float32", "--overwrite").code == 0
    stored = recorded_effects(plan, read_json_object(output / "ingraft.json")["verification"]["figures"]["tensors"])
    wide = recorded_effects(
        plan_merge(plan.adapter.root, dtype="float32"),
        read_json_object(folder / "wide" / "ingraft.json")["verification"]["figures"]["tensors"],
    )

    for narrow, exact in zip(stored, wide, strict=True):
        assert narrow.lost_in_float32 is not None
        assert exact.lost is not None
        assert 0 < exact.lost < narrow.lost_in_float32 < narrow.lost  # type: ignore[operator]
    assert wide[0].lost_in_float32 is None


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        ("encoder.layer.3.attention.self.query.weight", Place("encoder.layer.*.attention.self.query", 3)),
        ("layers.11.mlp.experts.7.down_proj.weight", Place("layers.*.mlp.experts.*.down_proj", 11)),
        ("h.0.attn.c_attn.bias", Place("h.*.attn.c_attn.bias", 0)),
        ("embeddings.word_embeddings.weight", Place("embeddings.word_embeddings", None)),
    ],
)
def test_places(tensor, expected) -> None:
    assert place(tensor) == expected


def test_what_all_names_begin_with_is_left_out() -> None:
    found = places(
        [effect("encoder.layer.0.a.weight"), effect("encoder.layer.1.b.weight"), effect("embeddings.weight")]
    )
    assert [spot.module for spot in found.values()] == ["a", "b", "embeddings"]

    found = places([effect("encoder.layer.0.a.weight"), effect("decoder.layer.0.a.weight")])
    assert [spot.module for spot in found.values()] == ["encoder.layer.*.a", "decoder.layer.*.a"]


def test_tensors_in_one_place_are_taken_together() -> None:
    found = cells(
        [
            effect("layers.0.experts.0.up.weight", base=3.0, delta=0.3),
            effect("layers.0.experts.1.up.weight", base=4.0, delta=0.4),
            effect("layers.1.experts.0.up.weight", base=2.0, delta=0.1),
            effect("layers.1.bias", base=0.0, delta=0.1),
        ]
    )

    assert [(cell.place.layer, cell.tensors) for cell in found] == [(0, 2), (1, 1)]
    assert [cell.relative for cell in found] == [pytest.approx(0.1), pytest.approx(0.05)]
