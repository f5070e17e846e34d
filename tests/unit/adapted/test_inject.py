"""Total accounting: whatever PEFT drops, misses or puts elsewhere while loading is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from helpers.handmade import write_adapter
from helpers.models import TEXTS, embed_adapted, new_folder, quiet, sentence_base
from ingraft.adapted import load_adapted
from ingraft.adapted.config import peft_config
from ingraft.adapted.coverage import check_covered, configured_modules
from ingraft.adapted.inject import inject
from ingraft.adapter import Adapter, open_adapter
from ingraft.errors import UnusableInput

NAMES = {"first": "first", "second": "second"}
LOST = "base_model.model.second.lora_B.weight"


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(3, 4)
        self.other = nn.Linear(3, 4)


def state(modules: tuple[str, ...] = ("first", "second")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"base_model.model.{module}.lora_{part}.weight": torch.randn(shape, generator=generator)
        for module in modules
        for part, shape in (("A", (2, 3)), ("B", (4, 2)))
    }


def adapter(folder: Path, **config: Any) -> Adapter:
    return open_adapter(write_adapter(folder, "base", tensors=state(), rank=2, alpha=2, **config))


def test_all_of_it_arrives(tmp_path: Path) -> None:
    model, tensors = Model(), state()

    inject(model, peft_config(adapter(tmp_path), NAMES), tensors, who="it")

    first: Any = model.first
    x = torch.randn(5, 3)
    delta = tensors["base_model.model.first.lora_B.weight"] @ tensors["base_model.model.first.lora_A.weight"]
    torch.testing.assert_close(first(x), first.base_layer(x) + x @ delta.T)
    assert type(model.other) is nn.Linear


def losing(change: Callable[[dict[str, Tensor]], Any]) -> Callable[..., Any]:
    """PEFT's loading function with a fault in it."""
    real = peft.set_peft_model_state_dict

    def faulty(model: Any, tensors: dict[str, Tensor], **options: Any) -> Any:
        change(tensors)
        result: Any = real(model, tensors, **options)
        return result

    return faulty


@pytest.mark.parametrize(
    "fault",
    [
        lambda tensors: tensors.pop(LOST),
        lambda tensors: tensors.update({LOST: tensors[LOST] * 1.001}),
        lambda tensors: tensors.update({LOST: torch.zeros(4, 2)}),
    ],
)
def test_a_tensor_that_peft_loses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[dict[str, Tensor]], Any]
) -> None:
    monkeypatch.setattr(peft, "set_peft_model_state_dict", losing(fault))

    with pytest.raises(UnusableInput, match=f"it: PEFT dropped {LOST}"):
        inject(Model(), peft_config(adapter(tmp_path), NAMES), state(), who="it")


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    tensors = state() | {"base_model.model.other.lora_A.weight": torch.ones(2, 3)}

    with pytest.raises(UnusableInput, match=r"no place for base_model.model.other.lora_A.weight"):
        inject(Model(), peft_config(adapter(tmp_path), NAMES), tensors, who="it")


def test_a_place_without_a_tensor_is_named(tmp_path: Path) -> None:
    tensors = state()
    del tensors["base_model.model.first.lora_A.weight"]

    with pytest.raises(UnusableInput, match=r"has no tensor base_model.model.first.lora_A.weight"):
        inject(Model(), peft_config(adapter(tmp_path), NAMES), tensors, who="it")


def test_modules_that_peft_does_not_find_are_named(tmp_path: Path) -> None:
    names = {"first": "first", "second": "third"}

    with pytest.raises(UnusableInput, match=r"adapts other modules than the file is for, such as third"):
        inject(Model(), peft_config(adapter(tmp_path), names), state(), who="it")


def test_peft_does_not_rename_by_the_model_type(tmp_path: Path) -> None:
    """For mixtures of experts it would take `…gate_proj` for an expert's, and adapt another parameter."""
    from transformers import Qwen2MoeConfig

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = Qwen2MoeConfig()
            self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(3, 4), "up_proj": nn.Linear(3, 4)})

    model = Shared()
    tensors = state(("mlp.gate_proj",))

    inject(model, peft_config(adapter(tmp_path), {"mlp.gate_proj": "mlp.gate_proj"}), tensors, who="it")

    adapted: Any = model.mlp["gate_proj"]
    assert torch.equal(adapted.lora_A["default"].weight, tensors["base_model.model.mlp.gate_proj.lora_A.weight"])
    assert model.config.model_type == "qwen2_moe"
    assert "model_type" not in vars(model.config)


def test_layers_that_were_targeted_and_are_not_there(tmp_path: Path) -> None:
    model = nn.Module()
    model.layers = nn.ModuleList([Model(), Model(), Model()])
    names = {f"bert.layers.{n}.first": f"layers.{n}.first" for n in (0, 2)}

    check_covered(adapter(tmp_path / "a", target_modules=["first"], layers_to_transform=[0, 2]), names, model)
    with pytest.raises(UnusableInput, match=r"no tensors for bert.layers.1.first"):
        check_covered(adapter(tmp_path / "b", target_modules=["first"]), names, model)


def test_modules_of_a_file_with_shared_tensors_alone(tmp_path: Path) -> None:
    assert configured_modules(adapter(tmp_path / "a", target_modules=["first", "other"]), Model()) == {
        "first": "first",
        "other": "other",
    }
    with pytest.raises(UnusableInput, match="no layer of the base"):
        configured_modules(adapter(tmp_path / "b", target_modules=["query"]), Model())


def test_an_adapter_whose_modules_only_the_config_knows() -> None:
    """Uni-LoRA with indices from the seed: one shared vector is all that its file holds."""
    from transformers import AutoModel

    base, folder = sentence_base("bert"), new_folder("unilora")
    with quiet():
        config = peft.UniLoraConfig(r=2, theta_d_length=64, target_modules=["query", "value"], save_indices=False)
        adapted = peft.get_peft_model(AutoModel.from_pretrained(base), config)
        with torch.no_grad():
            adapted.base_model.unilora_theta_d["default"].normal_()
        adapted.save_pretrained(folder)
    assert list(open_adapter(folder).tensors) == ["base_model.unilora_theta_d"]

    model = load_adapted(folder, base)

    found: Any = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False)  # type: ignore[union-attr]
    torch.testing.assert_close(found, embed_adapted(base, folder), rtol=1e-5, atol=2e-6)
