"""One adapted layer alone answers what it answers in the whole adapted model."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from helpers.models import new_folder, quiet
from ingraft.adapted.layer import BaseLayer, adapted_layer, effective_weight, forward_of
from ingraft.adapter import Adapter, open_adapter
from ingraft.errors import UnusableInput
from ingraft.methods.method import LayerKind


class Model(nn.Module):
    """Layers of several shapes and kinds, each called for itself. `tall` decides the sizes that layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.tall = nn.Linear(12, 16, bias=False)
        self.inner = nn.ModuleDict({"second": nn.Linear(8, 6)})
        self.turned = Conv1D(8, 6)
        self.words = nn.Embedding(10, 6)
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(6)


NAMES = ["first", "tall", "inner.second"]
EVERY = [*NAMES, "turned", "words", "patches"]
KINDS: dict[str, LayerKind] = {"turned": "conv1d", "words": "embedding", "patches": "conv"}


@dataclass(frozen=True)
class Case:
    adapter: Adapter
    live: nn.Module
    layers: dict[str, BaseLayer]

    @property
    def shapes(self) -> dict[str, tuple[LayerKind, tuple[int, ...]]]:
        return {name: (layer.kind, tuple(layer.weight.shape)) for name, layer in self.layers.items()}


def make(names: list[str], config: Any) -> Case:
    torch.manual_seed(2)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    layers = {}
    for name in names:
        module: Any = model.get_submodule(name)
        bias = getattr(module, "bias", None)
        layers[name] = BaseLayer(
            KINDS.get(name, "linear"),
            module.weight.detach().clone(),
            None if bias is None else bias.detach().clone(),
        )
    with quiet(), torch.no_grad():
        live = peft.get_peft_model(model, config)
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        folder = new_folder("layer")
        live.save_pretrained(str(folder))
    # PEFT's own reading of the file is what the layers are compared with.
    torch.manual_seed(2)
    fresh = Model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    with quiet():
        loaded = peft.PeftModel.from_pretrained(fresh, str(folder)).eval()
    return Case(open_adapter(folder), loaded.get_base_model(), layers)


def inputs(layer: BaseLayer) -> Tensor:
    if layer.kind == "embedding":
        return torch.arange(layer.weight.shape[0])
    width = layer.weight.shape[0] if layer.kind == "conv1d" else layer.weight[0].numel()
    return torch.randn(5, width, generator=torch.Generator().manual_seed(4))


CONFIGS: dict[str, tuple[list[str], Any]] = {
    "lora": (EVERY, lambda names: peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, lora_bias=False)),
    "rank pattern": (
        NAMES,
        lambda names: peft.LoraConfig(r=3, target_modules=names, rank_pattern={"second": 2}, alpha_pattern={"tall": 9}),
    ),
    "dora": (EVERY, lambda names: peft.LoraConfig(r=3, target_modules=names, use_dora=True)),
    "pissa": (NAMES, lambda names: peft.LoraConfig(r=3, target_modules=names, init_lora_weights="pissa")),
    "loha": (NAMES, lambda names: peft.LoHaConfig(r=3, target_modules=names)),
    "ia3": (NAMES, lambda names: peft.IA3Config(target_modules=names, feedforward_modules=["tall"])),
    "oft": (NAMES, lambda names: peft.OFTConfig(oft_block_size=2, target_modules=names)),
    "hra": (NAMES, lambda names: peft.HRAConfig(r=2, target_modules=names)),
    "fourierft": (NAMES, lambda names: peft.FourierFTConfig(n_frequency=20, target_modules=names)),
    "vera": ([*NAMES, "turned"], lambda names: peft.VeraConfig(r=4, target_modules=names)),
    "vera from the seed": (NAMES, lambda names: peft.VeraConfig(r=4, target_modules=names, save_projection=False)),
    "randlora": (NAMES, lambda names: peft.RandLoraConfig(r=2, target_modules=names)),
    "vblora": (NAMES, lambda names: peft.VBLoRAConfig(r=2, num_vectors=6, vector_length=2, target_modules=names)),
    "tinylora": (NAMES, lambda names: peft.TinyLoraConfig(r=2, u=4, target_modules=names)),
    "unilora": (
        NAMES,
        lambda names: peft.UniLoraConfig(r=2, theta_d_length=16, target_modules=names, save_indices=True),
    ),
}


@functools.cache
def case(name: str) -> Case:
    names, config = CONFIGS[name]
    with quiet():
        return make(names, config(names))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_answers_as_in_the_whole_model(name: str) -> None:
    made = case(name)
    for module, layer in made.layers.items():
        alone = forward_of(adapted_layer(made.adapter, module, layer, shapes=made.shapes), layer)
        whole = forward_of(made.live.get_submodule(module), layer)
        x = inputs(layer)

        torch.testing.assert_close(alone(x), whole(x), rtol=1e-5, atol=1e-6, msg=module)
        base = forward_of(_plain(made, module), layer)(x)
        assert not torch.allclose(alone(x), base, atol=1e-3), f"{module}: the adapter changes nothing"


def _plain(made: Case, module: str) -> nn.Module:
    base: nn.Module = made.live.get_submodule(module).get_base_layer()  # type: ignore[operator]
    return base


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_the_weight_it_amounts_to(name: str) -> None:
    """W′ and b′, put into a plain layer, answer like the adapted one."""
    made = case(name)
    for module, layer in made.layers.items():
        adapted = adapted_layer(made.adapter, module, layer)
        weight, bias = effective_weight(adapted, layer)
        plain: Any = _plain(made, module)
        before = plain.weight, getattr(plain, "bias", None)
        plain.weight = nn.Parameter(weight)
        if bias is not None and before[1] is not None:
            plain.bias = nn.Parameter(bias)

        found = forward_of(plain, layer)(inputs(layer))

        plain.weight, plain.bias = before
        torch.testing.assert_close(found, forward_of(adapted, layer)(inputs(layer)), rtol=1e-5, atol=1e-5)


def test_a_shared_projection_needs_the_shapes_of_all_modules() -> None:
    made = case("vera")
    with pytest.raises(ValueError, match="shapes of all"):
        adapted_layer(made.adapter, "first", made.layers["first"])


def test_what_needs_every_layer_is_refused() -> None:
    names = NAMES[:1]
    made = make(names, peft.UniLoraConfig(r=2, theta_d_length=16, target_modules=names, save_indices=False))
    with pytest.raises(UnusableInput, match="needs every layer"):
        adapted_layer(made.adapter, "first", made.layers["first"])


def test_a_base_of_another_shape_is_refused() -> None:
    made = case("lora")
    with pytest.raises(UnusableInput, match=r"PEFT cannot load it: .*size mismatch"):
        adapted_layer(made.adapter, "first", BaseLayer("linear", torch.ones(8, 7)))


def test_a_layer_without_its_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made = case("lora")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(made.adapter.weights)
    save_file({key: value for key, value in tensors.items() if "first.lora_B" not in key}, file)
    (tmp_path / "adapter_config.json").write_text((made.adapter.folder / "adapter_config.json").read_text())

    with pytest.raises(UnusableInput, match=r"no tensor .*first.lora_B"):
        adapted_layer(open_adapter(tmp_path), "first", made.layers["first"])
