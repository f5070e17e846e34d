"""Names of the training class in the model that is loaded: the same, with one prefix more or less, or of a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.handmade import QUERY, VALUE, bert_shapes, lora_tensors, write_adapter, write_base
from ingraft.adapted.keys import split_keys
from ingraft.adapted.names import LiveNames, live_names
from ingraft.adapter import open_adapter
from ingraft.base_model import open_base
from ingraft.errors import UnusableInput


class Tree(nn.Module):
    """Modules under dotted names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            at: Any = self
            for part in path:
                if not hasattr(at, part):
                    at.add_module(part, nn.Module())
                at = getattr(at, part)
            at.add_module(last, nn.Linear(2, 2))


def names_in(folder: Path, model: nn.Module, modules: list[str], saved: tuple[str, ...] = ()) -> LiveNames:
    base = write_base(folder / "base")
    shapes = {f"{module}.weight": (2, 2) for module in modules}
    tensors = lora_tensors(modules, shapes) | {f"base_model.model.{name}": torch.ones(2, 2) for name in saved}
    adapter = open_adapter(write_adapter(folder / "adapter", base, tensors=tensors))
    return live_names(adapter, split_keys(adapter), open_base(adapter, base), model, trust_remote_code=False)


def test_names_that_are_the_same(tmp_path: Path) -> None:
    found = names_in(tmp_path, Tree("layer.0.q", "layer.1.q"), ["layer.0.q", "layer.1.q"])

    assert found.modules == {"layer.0.q": "layer.0.q", "layer.1.q": "layer.1.q"}
    assert (found.displaced, found.absent) == ({}, ())


@pytest.mark.parametrize(
    ("trained", "live"), [("bert.layer.0.q", "layer.0.q"), ("layer.0.q", "bert.layer.0.q"), ("q", "model.bert.q")]
)
def test_a_prefix_is_taken_off_or_put_on(tmp_path: Path, trained: str, live: str) -> None:
    saved = trained.replace("q", "norm")
    model = Tree(live, live.replace("q", "norm"))

    found = names_in(tmp_path, model, [trained], saved=(f"{saved}.weight",))

    assert found.modules == {trained: live}
    assert found.saved == {f"{saved}.weight": live.replace("q", "norm") + ".weight"}


def test_names_as_they_are_win_over_a_prefix(tmp_path: Path) -> None:
    """A decoder below an encoder's names: the same suffix twice."""
    found = names_in(tmp_path, Tree("layer.0.q", "vision.layer.0.q"), ["layer.0.q"])

    assert found.modules == {"layer.0.q": "layer.0.q"}


def test_all_modules_change_by_the_same_prefix(tmp_path: Path) -> None:
    """`q` alone could be in either tower; the others say which."""
    model = Tree("text.q", "text.layer.0.k", "vision.q")

    found = names_in(tmp_path, model, ["q", "layer.0.k"])

    assert found.modules == {"q": "text.q", "layer.0.k": "text.layer.0.k"}


def test_a_module_of_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"layer.7.query fits nothing in .*base") as caught:
        names_in(tmp_path, Tree(QUERY), [QUERY, "layer.7.query"])
    assert "inspect" in caught.value.hint


def test_a_stored_tensor_that_the_live_model_lacks_is_a_heads(tmp_path: Path) -> None:
    """The pooler is in the checkpoint of a class that the live model here is not."""
    model = Tree(QUERY, VALUE)

    found = names_in(tmp_path, model, [QUERY, VALUE], saved=("pooler.dense.weight",))

    assert "pooler.dense.weight" in bert_shapes()
    assert found.absent == ("pooler.dense.weight",)
