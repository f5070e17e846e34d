"""Tied weights: both change, or the tie is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ingraft.adapter import AdapterConfig
from ingraft.checkpoint import TensorInfo, open_checkpoint
from ingraft.errors import UnusableInput
from ingraft.naming import Names, Region
from ingraft.naming.meta import RuntimeModel
from ingraft.steps import REPLACE, Edit
from ingraft.targets import PlacedEdit
from ingraft.ties import TiePlan, plan_ties

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def plan(
    tmp_path: Path,
    touched: list[str],
    *,
    stored: str = EMBEDDING,
    formula: str = "lora:lora",
    tied: Mapping[str, str] | None = None,
    also_stored: Sequence[str] = (),
    region: Region | None = None,
    **config: Any,
) -> TiePlan:
    save_file({stored: torch.ones(8, 4), "model.norm.weight": torch.ones(4)}, tmp_path / "model.safetensors")
    regions = (region or Region(stored, (0, 32), (0, 8)),)
    runtime = RuntimeModel(
        class_name="X",
        shapes={EMBEDDING: (8, 4), HEAD: (8, 4)},
        kinds={"model.embed_tokens": "embedding", "lm_head": "linear"},
        tied=tied or {HEAD: EMBEDDING},
        regions={EMBEDDING: regions, **{name: (Region(name, (0, 32), (0, 8)),) for name in also_stored}},
        unclear=frozenset(),
    )
    names = Names(dict.fromkeys(touched, regions), (), {}, {}, "", runtime=runtime)
    value = TensorInfo("x", "F32", (8, 4), tmp_path / "adapter.safetensors", 0, 128)
    edits = [
        PlacedEdit(
            stored,
            Edit(
                target=parameter.removesuffix(".weight"),
                parameter=parameter,
                part="weight",
                kind="linear",
                formula=formula,
                inputs={"value": value},
                settings={},
                shape=(8, 4),
                elements=(0, 32),
                rows=(0, 8),
            ),
        )
        for parameter in touched
    ]
    return plan_ties(edits, names, open_checkpoint(tmp_path), adapter_config(**config))


def adapter_config(**raw: Any) -> AdapterConfig:
    return AdapterConfig("LORA", None, None, None, tuple(raw.get("modules_to_save", ())), raw)


def test_other_parameters_do_not_matter(tmp_path: Path) -> None:
    found = plan(tmp_path, ["model.norm.weight"])

    assert (found.twins, found.untied, found.notes) == ((), False, ())


@pytest.mark.parametrize("stored", [EMBEDDING, EMBEDDING.removeprefix("model.")])
def test_delta_on_the_embedding_cuts_the_tie(stored: str, tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], stored=stored)

    assert found.untied
    assert [edit.tensor for edit in found.edits] == [stored]
    (twin,) = found.twins
    assert twin.tensor == HEAD
    assert twin.source.name == stored
    assert "tie cut" in found.notes[0]


def test_delta_on_the_output_layer_goes_to_the_twin(tmp_path: Path) -> None:
    found = plan(tmp_path, [HEAD])

    assert found.untied
    assert [edit.tensor for edit in found.edits] == [HEAD]
    assert [twin.tensor for twin in found.twins] == [HEAD]


def test_delta_on_both(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING, HEAD])

    assert [edit.tensor for edit in found.edits] == [EMBEDDING, HEAD]
    assert found.untied


def test_the_wish_to_stay_tied_is_not_believed(tmp_path: Path) -> None:
    """PEFT ties the adapters of some models only, and then the file holds both sides."""
    found = plan(tmp_path, [EMBEDDING], ensure_weight_tying=True)

    assert found.untied
    assert [twin.tensor for twin in found.twins] == [HEAD]


def test_grown_embedding_is_for_both(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], formula=REPLACE)

    assert (found.untied, found.twins) == (False, ())


def test_embedding_saved_on_purpose_is_for_itself(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], formula=REPLACE, modules_to_save=["embed_tokens"])

    assert found.untied
    assert [twin.tensor for twin in found.twins] == [HEAD]


def test_trained_tokens_are_for_both(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], formula="tokens:trainable_tokens")

    assert (found.untied, found.twins) == (False, ())


def test_model_without_ties(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")

    found = plan_ties([], Names({}, (), {}, {}, ""), open_checkpoint(tmp_path), adapter_config())

    assert found == TiePlan((), (), False, ())


def test_twin_of_a_twin(tmp_path: Path) -> None:
    """All that share the numbers of one stored tensor get their own, though one names the other as its source."""
    found = plan(tmp_path, [EMBEDDING], tied={HEAD: EMBEDDING, "other.weight": HEAD})

    assert {twin.tensor: twin.source.name for twin in found.twins} == {HEAD: EMBEDDING, "other.weight": EMBEDDING}


def test_twin_that_is_stored_is_not_added(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], tied={HEAD: EMBEDDING, "other.weight": EMBEDDING}, also_stored=[HEAD])

    assert [twin.tensor for twin in found.twins] == ["other.weight"]


def test_twin_is_spelled_as_its_source_is_stored(tmp_path: Path) -> None:
    found = plan(tmp_path, [EMBEDDING], stored="embed_tokens.weight", tied={"model.decoder.weight": EMBEDDING})

    assert [twin.tensor for twin in found.twins] == ["decoder.weight"]


def test_tie_that_is_stored_in_parts(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="stored in parts"):
        plan(tmp_path, [EMBEDDING], region=Region(EMBEDDING, (0, 16), (0, 4)))
