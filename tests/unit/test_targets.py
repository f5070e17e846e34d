"""Where the parameters that an adapter holds whole go in the base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from helpers.handmade import write_adapter
from ingraft.adapter import Adapter, SavedParameter, open_adapter
from ingraft.errors import UnusableInput
from ingraft.naming import Names, Region
from ingraft.steps import Edit
from ingraft.targets import place_saved

NAME = "layers.0.part.weight"


def opened(folder: Path, shape: tuple[int, ...]) -> tuple[Adapter, SavedParameter]:
    write_adapter(folder, None, modules_to_save=["part"])
    save_file({NAME: torch.ones(shape)}, folder / "adapter_model.safetensors")
    adapter = open_adapter(folder)
    return adapter, SavedParameter(NAME, NAME, adapter.tensors[NAME])


def placed(
    folder: Path, shape: tuple[int, ...], before: tuple[int, ...], *regions: Region, vocabulary: int = 0
) -> list[Edit]:
    """The edits for a saved parameter of `shape`; the base's has the shape `before` and lies in `regions`."""
    adapter, saved = opened(folder, shape)
    edits, absent = place_saved(adapter, [saved], Names({NAME: regions}, (), {NAME: before}, {}, ""), {vocabulary})
    assert absent == ()
    assert [item.tensor for item in edits] == [region.tensor for region in regions]
    return [item.edit for item in edits]


def test_parts_of_a_parameter(tmp_path: Path) -> None:
    first, second = placed(tmp_path, (4, 3), (4, 3), Region("a", (6, 12), (0, 2)), Region("b", (0, 6), (2, 4)))

    assert (first.shape, first.elements, first.rows) == ((4, 3), (6, 12), (0, 2))
    assert (second.shape, second.elements, second.rows) == ((4, 3), (0, 6), (2, 4))


def test_rows_of_experts_lie_one_below_the_other(tmp_path: Path) -> None:
    """Their numbers count within an expert; in the file that is read they follow those of the experts before."""
    regions = [Region(f"e{n}", (0, 6), (2, 4), expert=n) for n in range(2)]

    edits = placed(tmp_path, (2, 4, 3), (2, 4, 3), *regions)

    assert [edit.shape for edit in edits] == [(8, 3), (8, 3)]
    assert [edit.rows for edit in edits] == [(2, 4), (6, 8)]


def test_vocabulary_may_have_grown(tmp_path: Path) -> None:
    (edit,) = placed(tmp_path, (6, 3), (4, 3), Region("a", (0, 12), (0, 4)), vocabulary=4)

    assert edit.grown
    assert (edit.shape, edit.elements, edit.rows) == ((6, 3), (0, 18), (0, 6))


def test_vocabulary_in_parts_may_not_grow(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"has the shape \[6, 3\]"):
        placed(tmp_path, (6, 3), (4, 3), Region("a", (0, 6), (0, 2)), Region("b", (0, 6), (2, 4)), vocabulary=4)


def test_what_is_stored_transposed_is_refused(tmp_path: Path) -> None:
    """Its numbers would have to be turned, and nothing that writes or proves whole parameters does that."""
    with pytest.raises(UnusableInput, match="the base's a, which is stored transposed"):
        placed(tmp_path, (4, 3), (4, 3), Region("a", (0, 12), (0, 4), transposed=True))
