"""Forwards that the proof has written out, against PEFT's own layers: the same answers, the same verdicts."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conformance import test_formulas_low_rank as low_rank
from conformance import test_formulas_structured as structured
from conformance.adapters import TUNERS, by_peft, change_tensors, config_for, lora
from conformance.architectures import base
from conformance.formula_harness import (
    LINEAR,
    ModelFactory,
    below,
    config_of,
    error,
    formula_of,
    kind_of,
    matrix_of,
    save_adapter,
    target_of,
)
from helpers.files import write_json
from helpers.models import new_folder
from ingraft.adapted.layer import BaseLayer, adapted_layer, forward_of
from ingraft.adapter import Adapter, open_adapter
from ingraft.adapter.grouping import group_tensors
from ingraft.checkpoint import TensorInfo
from ingraft.execute import execute
from ingraft.methods.method import Target
from ingraft.methods.table import method_for
from ingraft.plan import plan_merge
from ingraft.steps import Edit
from ingraft.verification import truth
from ingraft.verification.forwards import own_forward
from ingraft.verification.report import Check
from ingraft.verification.weights import verify_weights

LORA = {**LINEAR, **low_rank.TURNED, **low_rank.CONV}
WITH_WORDS = {**LORA, "words": lambda: nn.Embedding(11, 6)}


def _cases() -> dict[str, tuple[ModelFactory, Any]]:
    cases: dict[str, tuple[ModelFactory, Any]] = {
        "lora": (below(**WITH_WORDS), lora(target_modules=list(WITH_WORDS))),
        "lora-bias": (below(**LORA), lora(target_modules=list(LORA), lora_bias=True)),
    }
    for name, case in low_rank.CASES.items():
        if name.startswith(("loha", "lokr")):
            cases[name] = (below(**case[2]), config_of(case))
    for name, (method, model, config, options) in structured.CASES.items():
        if method in ("OFT", "(IA)³"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                names = [child for child, _ in model().named_children()]
                cases[name] = (model, config(**{"target_modules": names, **options}))
    return cases


CASES = _cases()
# Convolutions with a core, and whole factors of one-dimensional ones.
ASKS_PEFT = {
    "loha-tucker": {"two", "one"},
    "lokr-tucker": {"two", "one"},
    "lokr-whole": {"one", "line"},
}


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Whatever PEFT makes without a dtype too: scales, identities."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=CASES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, nn.Module]:
    """A case's name and its base; `tmp_path` holds the adapter."""
    model, config = CASES[request.param]
    save_adapter(model, config, tmp_path)
    return request.param, model()


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_forward_answers_as_pefts_layer(saved: tuple[str, nn.Module], tmp_path: Path, in_float64: None) -> None:
    """Weights at all rows and at some, and biases, in float64."""
    case, base = saved
    adapter = open_adapter(tmp_path)
    row = method_for(adapter.config.raw)
    tensors = load_file(adapter.weights)
    grouped = group_tensors(adapter, row)
    targets = [target_of(base, module, tensors) for module in grouped.targets]
    asks_peft = set()
    for module, target in zip(grouped.targets, targets, strict=True):
        layer = base.get_submodule(module.module)
        settings = row.settings(adapter.config.raw, target, targets)
        inputs = {name: adapter.tensors[key] for name, key in module.tensors.items()}
        values = {name: tensors[key].double().numpy() for name, key in module.tensors.items()}
        own = own_forward(edit_of(formula_of(row, target), target, inputs, settings))
        if own is None:
            asks_peft.add(module.module.rpartition(".")[2])
            continue
        matrix = matrix_of(layer).double()
        x = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        base_answer = matrix.numpy() @ (own.before(values, settings, x.numpy()) if own.before else x.numpy())
        expected, expected_bias = ask_peft(adapter, module.module, layer, x)
        assert error(matrix @ x, expected) > 1e-3, f"{module.module}: the adapter does nothing"
        for rows in (slice(0, len(matrix)), slice(2, 5)):
            y = base_answer[rows]
            found = own.after(values, settings, x.numpy(), y, rows) if own.after else y
            assert error(torch.from_numpy(found), expected[rows]) < 1e-9, f"{module.module} at {rows}"
        bias = getattr(layer, "bias", None)
        if bias is not None:
            changed = row.bias and (not row.bias_tensors or row.bias_tensors & set(values))
            own = own_forward(edit_of(row.bias, target, inputs, settings)) if changed else None
            found = bias.detach().double()[1:4].numpy()
            found = own.bias(values, settings, found, slice(1, 4)) if own and own.bias else found
            assert error(torch.from_numpy(found), expected_bias[1:4]) < 1e-9, f"the bias of {module.module}"
    assert asks_peft == ASKS_PEFT.get(case, set())


def edit_of(formula: str, target: Target, inputs: Mapping[str, TensorInfo], settings: Mapping[str, Any]) -> Edit:
    rows, columns = target.shape
    return Edit(
        target=target.module,
        parameter=f"{target.module}.weight",
        part="weight",
        kind=target.kind,
        formula=formula,
        inputs=inputs,
        settings=settings,
        shape=target.shape,
        elements=(0, rows * columns),
        rows=(0, rows),
    )


def ask_peft(adapter: Adapter, module: str, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What PEFT's layer adds to its answer to nothing when it is asked x, and that answer."""
    weight, bias = layer.get_parameter("weight").detach().double(), getattr(layer, "bias", None)
    base = BaseLayer(kind_of(layer), weight, None if bias is None else bias.detach().double())
    forward = forward_of(adapted_layer(adapter, module, base).double(), base)
    if base.kind == "embedding":
        return forward(torch.arange(len(weight))) @ x, torch.zeros(())
    both = forward(torch.stack([x, torch.zeros_like(x)]))
    return both[0] - both[1], both[1]


# Verdicts

Change = Callable[[Tensor], Tensor]


def exchanged(value: Tensor) -> Tensor:
    """The first two rows, where there are; otherwise columns."""
    return value[[1, 0, *range(2, len(value))]] if len(value) > 1 else value[:, [1, 0, *range(2, value.shape[1])]]


def one_element(value: Tensor) -> Tensor:
    changed = value.clone()
    changed.flatten()[3] += 0.1 * value.abs().mean()
    return changed


def one_percent(value: Tensor) -> Tensor:
    return value * 1.01


CHANGES: dict[str, Change] = {"exchanged": exchanged, "one element": one_element, "one percent": one_percent}
PARAMETERS = {
    "loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "lokr": ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
    "lokr-whole": ("lokr_w1", "lokr_w2"),
    "ia3": ("ia3_l",),
    "oft": ("oft_R.weight",),
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {"lokr": {"r": 1, "decompose_both": True}}
MODULE = "encoder.layer.0.attention.self.query"


@pytest.fixture(scope="module")
def merged() -> Callable[[str, str], tuple[Path, Path]]:
    """The adapter of a tuner and what it makes of a base of some dtype."""

    @functools.cache
    def make(tuner: str, dtype: str) -> tuple[Path, Path]:
        made = base("bert", dtype)  # type: ignore[arg-type]
        adapter = by_peft(made, config_for(tuner, "bert", **CONFIGS.get(tuner, {})), size=TUNERS[tuner].size).folder
        output = new_folder("merged")
        execute(plan_merge(adapter, made), output)
        return adapter, output

    return make


Merged = Callable[[str, str], tuple[Path, Path]]


def probes(judge: str, adapter: Path, output: Path, dtype: str) -> Check:
    """Judged by the written forward, where peft cannot be imported, or by PEFT's layers."""
    plan = plan_merge(adapter, base("bert", dtype))  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        if judge == "written out":
            patch.setitem(sys.modules, "peft", None)
        else:
            patch.setattr(truth, "own_forward", lambda edit: None)
        return next(check for check in verify_weights(plan, output) if check.name == "probes")


judges = pytest.mark.parametrize("judge", ["written out", "peft"])


@judges
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tuner", PARAMETERS)
def test_right_merges_pass(judge: str, tuner: str, dtype: str, merged: Merged) -> None:
    assert probes(judge, *merged(tuner, dtype), dtype).passed


@judges
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("tuner", "parameter"), [(t, name) for t, names in PARAMETERS.items() for name in names])
def test_another_adapter_is_found(judge: str, tuner: str, parameter: str, change: str, merged: Merged) -> None:
    """Its rows exchanged, one of its numbers or all of them changed, in one tensor of one module."""
    adapter, output = merged(tuner, "float32")
    other = new_folder("other")
    shutil.copytree(adapter, other, dirs_exist_ok=True)
    key = f"base_model.model.{MODULE}.{parameter}"
    assert key in load_file(adapter / "adapter_model.safetensors")
    change_tensors(other, lambda name, value: (name, CHANGES[change](value) if name == key else value))

    check = probes(judge, other, output, "float32")

    assert not check.passed
    assert check.where == f"{MODULE} in {MODULE}.weight" or (tuner == "ia3" and MODULE in check.where)


@judges
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("tuner", "changes"),
    [
        ("loha", {"alpha": 9}),
        ("lokr", {"alpha": 9}),
        ("lokr-whole", {"alpha_pattern": {"query": 7}}),
        ("oft", {"use_cayley_neumann": False}),
        ("oft", {"num_cayley_neumann_terms": 2}),
        ("oft", {"coft": True, "eps": 0.05}),
    ],
    ids=str,
)
def test_another_config_is_found(
    judge: str, tuner: str, changes: Mapping[str, Any], dtype: str, merged: Merged
) -> None:
    """Scales, and how a rotation is made."""
    adapter, output = merged(tuner, dtype)
    other = new_folder("other")
    shutil.copytree(adapter, other, dirs_exist_ok=True)
    file = other / "adapter_config.json"
    write_json(file, {**json.loads(file.read_text()), **changes})

    assert not probes(judge, other, output, dtype).passed
