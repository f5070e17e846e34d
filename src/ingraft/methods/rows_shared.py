"""Rows for methods whose modules share state: one pair of projections, one bank or one vector for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.methods.method import Method, Setting, Target
from ingraft.methods.settings import check_divides, check_present, check_shape, largest, rank_of, seed_of

Config = Mapping[str, Any]
Settings = dict[str, Setting]
Targets = Sequence[Target]


def _vera(config: Config, target: Target, targets: Targets) -> Settings:
    check_shape(target, "vera_lambda_b", (target.shape[0],))
    check_shape(target, "vera_lambda_d", (rank_of(config, target.module, 256),))
    return {}


def _vera_regrown(config: Config, target: Target, targets: Targets) -> Settings:
    return {**_vera(config, target, targets), **_seed(config), "largest": largest(targets), "rounded_to": target.dtype}


def _pvera(config: Config, target: Target, targets: Targets) -> Settings:
    check_shape(target, "pvera_lambda_b", (target.shape[0],))
    check_shape(target, "pvera_lambda_d", (2 * rank_of(config, target.module, 256),))
    return {}


def _pvera_regrown(config: Config, target: Target, targets: Targets) -> Settings:
    return {**_pvera(config, target, targets), **_seed(config), "largest": largest(targets), "rounded_to": target.dtype}


def _randlora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 32)
    bases = math.ceil(min(target.shape) / rank)
    check_shape(target, "randlora_lambda", (rank, bases))
    check_shape(target, "randlora_gamma", (bases, min(target.shape)))
    return {"scale": float(config.get("randlora_alpha", 640)) / rank}


def _randlora_regrown(config: Config, target: Target, targets: Targets) -> Settings:
    covered = largest(targets)
    sparsity = 0.0
    if config.get("very_sparse"):
        sparsity = math.sqrt(min(covered))
    elif config.get("sparse"):
        sparsity = 3.0
    return {**_randlora(config, target, targets), **_seed(config), "largest": covered, "sparsity": sparsity}


def _seed(config: Config) -> Settings:
    return {"seed": seed_of(config, "projection_prng_key", 0)}


_VBLORA_DEFAULTS = {"vector_length": 256, "num_vectors": 256, "topk": 2}


def _vblora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 4)
    length, vectors, topk = (int(config.get(key, value)) for key, value in _VBLORA_DEFAULTS.items())
    out, columns = target.shape
    check_divides(target, "vector_length", length, out, columns)
    shapes = {"A": (rank, columns // length), "B": (out // length, rank)}
    for side, shape in shapes.items():
        name = f"vblora_logits_{side}"
        if config.get("save_only_topk_weights"):
            check_present(target, f"{name}_topk_indices", f"{name}_topk_weights")
            check_shape(target, f"{name}_topk_indices", (*shape, topk))
            check_shape(target, f"{name}_topk_weights", (*shape, topk - 1))
        else:
            check_present(target, name)
            check_shape(target, name, (*shape, vectors))
    return {"topk": topk}


def _unilora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 4)
    out, columns = target.shape
    for kind in ("indices", "scales"):
        check_shape(target, f"unilora_{kind}_A", (rank, columns))
        check_shape(target, f"unilora_{kind}_B", (out, rank))
    return {}


ROWS: tuple[Method, ...] = (
    Method(
        "VERA",
        "VeRA",
        "streamed",
        change="ΔW = diag(b)·B·diag(d)·A",
        source="VeRA, arXiv:2310.11454",
        tensors={".vera_lambda_b": "vera_lambda_b", ".vera_lambda_d": "vera_lambda_d"},
        shared={"vera_A": "vera_A", "vera_B": "vera_B"},
        formula="vera:vera",
        settings=_vera,
        applies=lambda config: bool(config.get("save_projection", True)),
    ),
    Method(
        "VERA",
        "VeRA, projections from the seed",
        "streamed",
        change="ΔW = diag(b)·B·diag(d)·A, A and B grown again",
        source="VeRA, arXiv:2310.11454",
        tensors={".vera_lambda_b": "vera_lambda_b", ".vera_lambda_d": "vera_lambda_d"},
        formula="vera:vera_regrown",
        settings=_vera_regrown,
    ),
    Method(
        "PVERA",
        "PVeRA, sampled",
        "refused",
        source="PVeRA, arXiv:2512.07703",
        reason=(
            "It draws a new change at every forward pass (sample_at_inference); "
            "set that to false in adapter_config.json to merge the mean."
        ),
        applies=lambda config: bool(config.get("sample_at_inference", False)),
    ),
    Method(
        "PVERA",
        "PVeRA",
        "streamed",
        change="ΔW = diag(b)·B·diag(d₁)·A₁, the mean",
        source="PVeRA, arXiv:2512.07703",
        tensors={".pvera_lambda_b": "pvera_lambda_b", ".pvera_lambda_d": "pvera_lambda_d"},
        shared={"pvera_A": "pvera_A", "pvera_B": "pvera_B"},
        formula="vera:pvera",
        settings=_pvera,
        applies=lambda config: bool(config.get("save_projection", True)),
    ),
    Method(
        "PVERA",
        "PVeRA, projections from the seed",
        "streamed",
        change="ΔW = diag(b)·B·diag(d₁)·A₁, A and B grown again",
        source="PVeRA, arXiv:2512.07703",
        tensors={".pvera_lambda_b": "pvera_lambda_b", ".pvera_lambda_d": "pvera_lambda_d"},
        formula="vera:pvera_regrown",
        settings=_pvera_regrown,
    ),
    Method(
        "RANDLORA",
        "RandLoRA",
        "streamed",
        change="ΔW = s·Σ Bⱼ·diag(λⱼ)·A·diag(γⱼ)",
        source="RandLoRA, arXiv:2502.00987",
        tensors={f".randlora_{name}": f"randlora_{name}" for name in ("lambda", "gamma", "A", "B")},
        optional=frozenset({"randlora_A", "randlora_B"}),
        shared={"randlora_A": "shared_A", "randlora_B": "shared_B"},
        formula="randlora:randlora",
        settings=_randlora,
        applies=lambda config: bool(config.get("save_projection", True)),
    ),
    Method(
        "RANDLORA",
        "RandLoRA, projections from the seed",
        "streamed",
        change="ΔW = s·Σ Bⱼ·diag(λⱼ)·A·diag(γⱼ), A and B grown again",
        source="RandLoRA, arXiv:2502.00987",
        tensors={f".randlora_{name}": f"randlora_{name}" for name in ("lambda", "gamma")},
        formula="randlora:randlora_regrown",
        settings=_randlora_regrown,
    ),
    Method(
        "VBLORA",
        "VB-LoRA",
        "streamed",
        change="ΔW = B·A, put together from a shared vector bank",
        source="VB-LoRA, arXiv:2405.15179",
        tensors={
            f".vblora_logits_{name}": f"vblora_logits_{name}"
            for name in ("A", "B", "A_topk_indices", "A_topk_weights", "B_topk_indices", "B_topk_weights")
        },
        optional=frozenset(
            f"vblora_logits_{name}"
            for name in ("A", "B", "A_topk_indices", "A_topk_weights", "B_topk_indices", "B_topk_weights")
        ),
        shared={"vblora_vector_bank": "vblora_vector_bank"},
        formula="vblora:vblora",
        settings=_vblora,
    ),
    Method(
        "TINYLORA",
        "TinyLoRA",
        "in-memory",
        change="ΔW = B·(Σ vᵢ·Pᵢ)·A, A and B the base's largest singular vectors",
        source="TinyLoRA, arXiv:2602.04118",
        reason="Which of the trained vectors a module reads depends on the order of modules in the model.",
        tensors={f".tinylora_{name}": f"tinylora_{name}" for name in ("A", "B", "P")},
        optional=frozenset({"tinylora_P"}),
        kinds=frozenset({"linear", "conv1d", "embedding"}),
    ),
    Method(
        "UNILORA",
        "Uni-LoRA",
        "streamed",
        change="ΔW = B·A, both filled from one shared vector",
        source="Uni-LoRA, arXiv:2506.00799",
        tensors={f".unilora_{name}": f"unilora_{name}" for name in ("indices_A", "indices_B", "scales_A", "scales_B")},
        shared={"unilora_theta_d": "unilora_theta_d"},
        formula="unilora:unilora",
        settings=_unilora,
        applies=lambda config: bool(config.get("save_indices", False)),
    ),
    Method(
        "UNILORA",
        "Uni-LoRA, indices from the seed",
        "in-memory",
        change="ΔW = B·A, both filled from one shared vector",
        source="Uni-LoRA, arXiv:2506.00799",
        reason="The indices are drawn again for all modules at once, in their order in the model.",
        shared={"unilora_theta_d": "unilora_theta_d"},
        kinds=frozenset({"linear", "conv1d"}),
    ),
)
