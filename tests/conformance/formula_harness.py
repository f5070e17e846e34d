"""Hold a row of the methods table against PEFT: save an adapter, merge it by the row's formula, compare outputs.

The truth is the forward pass of the adapter as PEFT loads it from disk, unmerged, in float64. Ours is computed in
float32, as a merge does, in blocks of a few rows as well as at once.
"""

from __future__ import annotations

import copy
import inspect
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ingraft.adapter import open_adapter
from ingraft.adapter.grouping import AdapterTensors, TargetModule, group_tensors
from ingraft.methods.method import LayerKind, Method, Target
from ingraft.methods.table import formula, method_for, takes_arrays

ModelFactory = Callable[[], nn.Module]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Layers(nn.Module):
    """A bag of layers, each called for itself."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def layers(**factories: Callable[[], nn.Module]) -> ModelFactory:
    """A model factory: `layers(a=lambda: nn.Linear(6, 4))`. Same weights at every call, biases not zero."""

    def make() -> nn.Module:
        torch.manual_seed(1)
        model = Layers(**{name: factory() for name, factory in factories.items()})
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(parameter, std=0.5)
            elif isinstance(model.get_submodule(name.rpartition(".")[0]), (Conv1D, nn.LayerNorm)):
                nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
        return model

    return make


# Linear layers of every proportion, one of them without a bias.
LINEAR = {
    "tall": lambda: nn.Linear(8, 12),
    "wide": lambda: nn.Linear(12, 8, bias=False),
    "square": lambda: nn.Linear(8, 8),
}
# A config, its options, the layers.
Case = tuple[type[PeftConfig], Mapping[str, Any], Mapping[str, Any]]


def below(**factories: Any) -> ModelFactory:
    """The layers inside of a block, so that their names have two parts."""
    make = layers(**factories)
    return lambda: Layers(block=make())


def config_of(case: Case) -> PeftConfig:
    """PEFT's config of a case."""
    config, options, factories = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns that projections which are not saved may differ elsewhere
        return config(target_modules=list(factories), **options)


def row_of(config: PeftConfig) -> Method:
    """The row of the table that takes the adapters of a config."""
    return method_for({**config.to_dict(), "peft_type": config.peft_type.value})


def disturb(name: str, parameter: Tensor) -> None:
    """What training might do to an adapter's parameter: no element stays where it began, or zero."""
    parameter.add_(torch.randn_like(parameter), alpha=0.3)


def check_row(
    row: Method,
    make_model: ModelFactory,
    config: PeftConfig,
    *,
    tolerance: float = 1e-5,
    truth_dtype: torch.dtype = torch.float64,
    disturb: Callable[[str, Tensor], None] = disturb,
    block_rows: tuple[int, ...] = (10**6, 3, 1),
    idle: tuple[str, ...] = (),
    seed: int = 0,
) -> int:
    """Compare every adapted layer; returns how many there are. AssertionError where they differ.

    tolerance    largest relative error of a layer's output (in the Euclidean norm)
    truth_dtype  what PEFT computes in
    block_rows   how many rows of a weight the formula sees at a time
    idle         layers on which the adapter does nothing; on all others it must
    """
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(make_model, config, Path(folder), disturb=disturb, seed=seed)
        merged = [merge_by_row(row, make_model(), Path(folder), rows) for rows in block_rows]
        truth = load_adapter(make_model(), Path(folder)).to(truth_dtype)
        names = merged[0].changed
        assert names, f"{row.name} changed no layer"
        base = make_model().to(truth_dtype)
        for name in names:
            layer = truth.get_submodule(f"base_model.model.{name}")
            x = layer_input(base.get_submodule(name), truth_dtype)
            with torch.no_grad():
                expected = layer(x)
                works = error(base.get_submodule(name)(x), expected) > 1e-3
                assert works is (name not in idle), f"{name}: the adapter {'works' if works else 'does nothing'}"
                for ours, rows in zip(merged, block_rows, strict=True):
                    found = error(ours.model.get_submodule(name).to(truth_dtype)(x), expected)
                    assert found < tolerance, f"{row.name} on {name}, {rows} rows at a time: error {found:.2e}"
    return len(names)


def error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖"""
    return float((found - expected).norm() / expected.norm())


def save_adapter(
    make_model: ModelFactory,
    config: PeftConfig,
    folder: Path,
    *,
    disturb: Callable[[str, Tensor], None] = disturb,
    seed: int = 0,
) -> None:
    """Make an adapter with PEFT, disturb its parameters, and save it as users do."""
    model = make_model()
    torch.manual_seed(seed)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, copy.deepcopy(config))
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                disturb(name, parameter)
        adapted.save_pretrained(folder)


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Base + adapter, live. Some methods change the base as they are loaded, in the dtype that it then has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, str(folder)).eval()


@dataclass(frozen=True)
class Merged:
    """The merged model, and the names of the layers that the adapter says it changes."""

    model: nn.Module
    changed: tuple[str, ...]


@dataclass(frozen=True)
class WholeBase:
    """A base weight as the formulas read it: in float32, and what it is stored in."""

    weight: Tensor
    rows: int
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.weight), self.rows):
            at = slice(start, min(start + self.rows, len(self.weight)))
            yield at, self.weight[at].clone()


def merge_by_row(row: Method, base: nn.Module, folder: Path, block_rows: int) -> Merged:
    """Merge the adapter in `folder` into a float32 copy of `base`, `block_rows` rows at a time."""
    adapter = open_adapter(folder)
    config = adapter.config.raw
    assert method_for(config) is row, f"{method_for(config).name} comes before {row.name}"
    grouped = group_tensors(adapter, row)
    tensors = {
        key: value.float() if value.is_floating_point() else value for key, value in load_file(adapter.weights).items()
    }
    used = keys_of(grouped)
    assert sorted(used) == sorted(tensors), f"used {sorted(used)} of {sorted(tensors)}"
    targets = [target_of(base, module, tensors) for module in grouped.targets]
    merged = copy.deepcopy(base).float()
    for module, target in zip(grouped.targets, targets, strict=True):
        assert target.kind in row.kinds, f"{row.name} does not know layers of kind {target.kind}"
        assert set(row.tensors.values()) - row.optional <= set(module.tensors), f"{module.tensors} of {row.tensors}"
        inputs = {name: tensors[key] for name, key in {**module.tensors, **grouped.shared}.items()}
        settings = row.settings(config, target, targets)
        layer = merged.get_submodule(module.module)
        if row.formula:
            matrix = matrix_of(layer)
            whole = WholeBase(matrix, block_rows, base.get_parameter(f"{module.module}.weight").dtype)
            rows = call(formula_of(row, target), inputs, settings, base=whole)
            put_matrix(layer, in_blocks(rows, matrix, block_rows))
        own = row.bias_tensors & set(module.tensors)
        if row.bias and target.has_bias and (own or not row.bias_tensors):
            with torch.no_grad():
                bias = layer.get_parameter("bias")
                bias.copy_(call(row.bias, inputs, settings, bias=bias.detach().clone()))
        else:
            assert not own, f"{module.module} has {own}, but no bias"
    with torch.no_grad():
        for saved in grouped.saved:
            merged.get_parameter(saved.parameter).copy_(tensors[saved.key])
    changed = {module.module for module in grouped.targets}
    changed |= {saved.parameter.rpartition(".")[0] for saved in grouped.saved}
    return Merged(merged, tuple(sorted(changed)))


def formula_of(row: Method, target: Target) -> str:
    """Replaced tokens and embeddings have formulas of their own."""
    if "trainable_tokens_delta" in target.tensors:
        return "tokens:trainable_tokens"
    return (target.kind == "embedding" and row.embedding) or row.formula


def call(reference: str, inputs: Mapping[str, Tensor], settings: Mapping[str, Any], **more: Any) -> Any:
    """Call a formula with what its signature asks for; a required tensor that is not there is None.

    As in a merge it is given arrays where it takes them; what it returns is a tensor, or takes and returns tensors.
    """
    function = formula(reference)
    given = {**inputs, **settings, **more}
    if takes_arrays(reference):
        given = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in given.items()}
    wanted = inspect.signature(function).parameters
    found = function(
        **{
            name: given.get(name)
            for name, parameter in wanted.items()
            if name in given or parameter.default is inspect.Parameter.empty
        }
    )
    if not takes_arrays(reference):
        return found
    if isinstance(found, np.ndarray):
        return torch.from_numpy(found)
    return lambda weight, at: torch.from_numpy(found(weight.numpy(), at))


def in_blocks(rows: Callable[[Tensor, slice], Tensor], matrix: Tensor, block_rows: int) -> Tensor:
    """All of W' from a row formula, block by block."""
    blocks = []
    for start in range(0, len(matrix), block_rows):
        at = slice(start, min(start + block_rows, len(matrix)))
        block = rows(matrix[at].clone(), at)
        assert block.dtype == torch.float32
        assert block.shape == matrix[at].shape
        blocks.append(block)
    return torch.cat(blocks)


def kind_of(layer: nn.Module) -> LayerKind:
    if isinstance(layer, Conv1D):
        return "conv1d"
    if isinstance(layer, nn.Embedding):
        return "embedding"
    if isinstance(layer, CONVOLUTIONS):
        return "conv"
    return "norm" if layer.get_parameter("weight").dim() == 1 else "linear"


def target_of(model: nn.Module, module: TargetModule, tensors: Mapping[str, Tensor]) -> Target:
    layer = model.get_submodule(module.module)
    matrix = matrix_of(layer)
    return Target(
        module.module,
        kind_of(layer),
        (matrix.shape[0], matrix.shape[1]),
        {name: tuple(tensors[key].shape) for name, key in module.tensors.items()},
        getattr(layer, "bias", None) is not None,
    )


def matrix_of(layer: nn.Module) -> Tensor:
    """The layer's weight as [out, in], float32."""
    weight = layer.get_parameter("weight").detach().float()
    if isinstance(layer, Conv1D):
        return weight.T.contiguous()
    return weight.flatten(1) if weight.dim() > 1 else weight[:, None]


def put_matrix(layer: nn.Module, matrix: Tensor) -> None:
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.copy_(matrix.T if isinstance(layer, Conv1D) else matrix.reshape(weight.shape))


def layer_input(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """Random numbers that the layer can be called with; every token for an embedding."""
    generator = torch.Generator().manual_seed(2)
    if isinstance(layer, nn.Embedding):
        return torch.arange(layer.num_embeddings)
    if isinstance(layer, CONVOLUTIONS):
        sides = [8] * len(layer.kernel_size)
        return torch.randn(2, layer.in_channels, *sides, generator=generator, dtype=dtype)
    width = layer.weight.shape[0 if isinstance(layer, (Conv1D, nn.LayerNorm)) else 1]  # type: ignore[union-attr, index]
    return torch.randn(7, width, generator=generator, dtype=dtype)


def keys_of(grouped: AdapterTensors) -> list[str]:
    targets = [key for target in grouped.targets for key in target.tensors.values()]
    return targets + list(grouped.shared.values()) + [saved.key for saved in grouped.saved]
