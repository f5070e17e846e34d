"""LoRA on parameters: which of a module's wrapped parameters each set of tensors is for."""

from __future__ import annotations

import pytest

from ingraft.adapter import AdapterTensors, TargetModule
from ingraft.errors import UnusableInput
from ingraft.experts import has_target_parameters, with_parameters
from ingraft.naming.meta import RuntimeModel

EXPERTS = "layers.0.mlp.experts"


def place(modules: list[str], wanted: list[str], prefix: str = "") -> dict[str, str]:
    """Module in the adapter's keys → (module, parameter) that it is for."""
    shapes = {f"{EXPERTS}.gate_up_proj": (4, 8, 6), f"{EXPERTS}.down_proj": (4, 6, 4), "layers.0.q_proj.weight": (6, 6)}
    runtime = RuntimeModel("X", shapes, {}, {}, {}, frozenset())
    tensors = AdapterTensors(tuple(TargetModule(prefix + module, {"lora_A": "key"}) for module in modules), {}, ())
    placed = with_parameters(tensors, {"target_parameters": wanted}, runtime)
    assert [target.tensors for target in placed.targets] == [{"lora_A": "key"}] * len(modules)
    return {module: target.weight for module, target in zip(modules, placed.targets, strict=True)}


def test_asked_for() -> None:
    assert has_target_parameters({"target_parameters": ["experts.down_proj"]})
    assert not has_target_parameters({"target_parameters": None})
    assert not has_target_parameters({})


@pytest.mark.parametrize("prefix", ["", "model."])
def test_one_parameter(prefix: str) -> None:
    assert place([EXPERTS], ["experts.down_proj"], prefix) == {EXPERTS: f"{prefix}{EXPERTS}.down_proj"}


@pytest.mark.parametrize("wanted", [["experts.gate_up_proj", "experts.down_proj"], ["down_proj", "gate_up_proj"]])
def test_two_parameters(wanted: list[str]) -> None:
    """The first parameter of the module is wrapped first and lies innermost, whatever the order in the config."""
    assert place([EXPERTS, f"{EXPERTS}.base_layer"], wanted) == {
        EXPERTS: f"{EXPERTS}.down_proj",
        f"{EXPERTS}.base_layer": f"{EXPERTS}.gate_up_proj",
    }


def test_plain_modules_stay() -> None:
    assert place(["layers.0.q_proj"], ["experts.down_proj"]) == {"layers.0.q_proj": "layers.0.q_proj.weight"}


@pytest.mark.parametrize("wanted", [["experts.down_proj"], ["other"]])
def test_more_wrappers_than_parameters(wanted: list[str]) -> None:
    with pytest.raises(UnusableInput, match="wrapped"):
        place([f"{EXPERTS}.base_layer"], wanted)


@pytest.mark.parametrize("wanted", [True, "experts.down_proj", {"experts": 1}, [None]])
def test_names_that_are_none(wanted: object) -> None:
    runtime = RuntimeModel("X", {}, {}, {}, {}, frozenset())

    with pytest.raises(UnusableInput, match=r"target_parameters is .*, expected a list of names"):
        with_parameters(AdapterTensors((), {}, ()), {"target_parameters": wanted}, runtime)
