"""Rows for methods whose change is a product of two factors (LoRA and its variants are in rows_lora)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.methods.method import Method, Setting, Target
from ingraft.methods.settings import HINT, check_divides, check_present, check_shape, rank_of, scale_of

Config = Mapping[str, Any]
Settings = dict[str, Setting]
Targets = Sequence[Target]


def _loha(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 8)
    out, columns = target.shape
    core = target.tensors.get("hada_t1")
    for side in ("1", "2"):
        if core is None:
            check_shape(target, f"hada_w{side}_a", (out, rank))
            check_shape(target, f"hada_w{side}_b", (rank, columns))
        else:
            check_present(target, f"hada_t{side}")
            check_shape(target, f"hada_t{side}", (rank, rank, *core[2:]))
            check_shape(target, f"hada_w{side}_a", (rank, out))
            check_shape(target, f"hada_w{side}_b", (rank, columns // math.prod(core[2:])))
    return {"scale": scale_of(config, target.module, rank, 8)}


def _lokr(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 8)
    first = _kronecker_factor(target, "lokr_w1", rank)
    second = _kronecker_factor(target, "lokr_w2", rank)
    if (first[0] * second[0], first[1] * second[1]) != target.shape:
        raise UnusableInput(
            f"{target.module}: lokr_w1 {list(first)} and lokr_w2 {list(second)} make no "
            f"weight of {list(target.shape)}.",
            hint=HINT,
        )
    return {"scale": scale_of(config, target.module, rank, 8)}


def _kronecker_factor(target: Target, name: str, rank: int) -> tuple[int, int]:
    """(rows, columns) of a factor, whole or in parts."""
    if name in target.tensors:
        shape = target.tensors[name]
        return shape[0], math.prod(shape[1:])
    check_present(target, f"{name}_a", f"{name}_b")
    a, b = target.tensors[f"{name}_a"], target.tensors[f"{name}_b"]
    core = target.tensors.get("lokr_t2") if name == "lokr_w2" else None
    if core is None:
        check_shape(target, f"{name}_a", (a[0], rank))
        check_shape(target, f"{name}_b", (rank, b[1]))
        return a[0], b[1]
    check_shape(target, "lokr_t2", (rank, rank, *core[2:]))
    check_shape(target, f"{name}_a", (rank, a[1]))
    check_shape(target, f"{name}_b", (rank, b[1]))
    return a[1], b[1] * math.prod(core[2:])


def _delora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 8)
    out, columns = target.shape
    check_shape(target, "delora_A", (rank, columns))
    check_shape(target, "delora_B", (out, rank))
    check_shape(target, "delora_lambda", (1,))
    check_shape(target, "delora_w_norm", (columns,))
    return {}


def _gralora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 32)
    grid, general = int(config.get("gralora_k", 2)), int(config.get("hybrid_r", 0))
    out, columns = target.shape
    check_divides(target, "gralora_k", grid, out, columns, rank)
    check_shape(target, "gralora_A", (grid, columns // grid, rank))
    check_shape(target, "gralora_B", (grid, rank, out // grid))
    if general:
        check_present(target, "gralora_A_general", "gralora_B_general")
        check_shape(target, "gralora_A_general", (general, columns))
        check_shape(target, "gralora_B_general", (out, general))
    return {"scale": float(config.get("alpha", 64)) / (rank + general)}


def _glora(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 8)
    out, columns = target.shape
    for path in ("glora_A", "glora_B"):
        kind = config.get("config_A_B", "lora")
        expected: dict[str, tuple[int, ...]]
        if kind == "lora":
            expected = {f"{path}_Xd": (out, rank), f"{path}_Xu": (rank, columns)}
        elif kind in ("vector", "constant"):
            expected = {f"{path}_X": (out, 1) if kind == "vector" else (1,)}
        else:
            expected = {f"{path}_zeros": (out, columns)}
        check_present(target, *expected)
        for parameter, shape in expected.items():
            check_shape(target, parameter, shape)
    for path in ("glora_D", "glora_E"):
        check_shape(target, f"{path}_X", (out,) if config.get("config_D_E", "constant") == "vector" else (1,))
    return {}


def _hira(config: Config, target: Target, targets: Targets) -> Settings:
    # The rank comes from the tensors: PEFT 0.21 reads rank_pattern and then does not use it.
    embedding = "hira_embedding_A" in target.tensors
    a, b = ("hira_embedding_A", "hira_embedding_B") if embedding else ("hira_A", "hira_B")
    check_present(target, a, b)
    (rank, *rest), (rows, *inner) = target.tensors[a], target.tensors[b]
    product = (math.prod(rest), rows) if embedding else (rows, math.prod(rest))
    if product != target.shape or math.prod(inner) != rank:
        raise UnusableInput(
            f"{target.module}: {a} {list(target.tensors[a])} and {b} {list(target.tensors[b])} make no "
            f"weight of {list(target.shape)}.",
            hint=HINT,
        )
    return {}


def _miss(config: Config, target: Target, targets: Targets) -> Settings:
    rank, out = rank_of(config, target.module, 64), target.shape[0]
    width = out
    if config.get("init_weights") == "mini":
        width = int(config.get("mini_r", 1))
        check_divides(target, "mini_r", width, out)
    check_shape(target, "miss_block", (rank, width))
    return {}


def _miss_bat(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 64)
    check_divides(target, "the rank", rank, *target.shape)
    check_shape(target, "miss_block", (target.shape[0] // rank, rank, rank))
    return {}


ROWS: tuple[Method, ...] = (
    Method(
        "LOHA",
        "LoHa",
        "streamed",
        change="ΔW = s·(A₁·B₁) ∘ (A₂·B₂)",
        source="FedPara, arXiv:2108.06098",
        tensors={
            f".{name}": name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
        },
        optional=frozenset({"hada_t1", "hada_t2"}),
        kinds=frozenset({"linear", "conv"}),
        formula="loha:loha",
        settings=_loha,
    ),
    Method(
        "LOKR",
        "LoKr",
        "streamed",
        change="ΔW = s·(W₁ ⊗ W₂), each whole or a product",
        source="LyCORIS, arXiv:2309.14859",
        tensors={f".lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
        optional=frozenset(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
        kinds=frozenset({"linear", "conv"}),
        formula="lokr:lokr",
        settings=_lokr,
    ),
    Method(
        "DELORA",
        "DeLoRA",
        "streamed",
        change="ΔW = λ/r·(Σ bᵢ·aᵢᵀ / (‖bᵢ‖·‖aᵢ‖))·diag(w)",
        source="DeLoRA, arXiv:2503.18225",
        tensors={f".delora_{name}": f"delora_{name}" for name in ("A", "B", "lambda", "w_norm")},
        kinds=frozenset({"linear"}),
        formula="delora:delora",
        settings=_delora,
    ),
    Method(
        "GRALORA",
        "GraLoRA",
        "streamed",
        change="ΔWⱼₙ = s·Bⱼₙ·Aₙⱼ on a grid of blocks, + s·B·A",
        source="GraLoRA, arXiv:2505.20355",
        tensors={
            ".gralora_A": "gralora_A",
            ".gralora_B": "gralora_B",
            ".gralora_A_general.weight": "gralora_A_general",
            ".gralora_B_general.weight": "gralora_B_general",
        },
        optional=frozenset({"gralora_A_general", "gralora_B_general"}),
        formula="gralora:gralora",
        settings=_gralora,
    ),
    Method(
        "GLORA",
        "GLoRA without C",
        "streamed",
        change="ΔW = W ∘ A + B, Δb = b ∘ D + E",
        source="GLoRA, arXiv:2306.07967",
        tensors={
            f".glora_{path}.{name}": f"glora_{path}_{name}"
            for path, names in (
                ("A", ("Xd", "Xu", "X", "zeros")),
                ("B", ("Xd", "Xu", "X", "zeros")),
                ("C", ("zeros",)),
                ("D", ("X", "zeros")),
                ("E", ("X", "zeros")),
            )
            for name in names
        },
        optional=frozenset(
            {f"glora_{path}_{name}" for path in "AB" for name in ("Xd", "Xu", "X", "zeros")}
            | {"glora_C_zeros", "glora_D_X", "glora_D_zeros", "glora_E_X", "glora_E_zeros"}
        ),
        kinds=frozenset({"linear"}),
        formula="glora:glora",
        bias="glora:glora_bias",
        bias_tensors=frozenset({"glora_D_X", "glora_E_X"}),
        settings=_glora,
        applies=lambda config: config.get("config_C", "lora") == "none",
    ),
    Method(
        "GLORA",
        "GLoRA",
        "in-memory",
        change="ΔW = W ∘ A + B, Δb = b ∘ D + E + W·C",
        source="GLoRA, arXiv:2306.07967",
        reason="The bias changes by W·C, so that weight and bias of a layer are needed together.",
        tensors={
            f".glora_{path}.{name}": f"glora_{path}_{name}" for path in "ABCDE" for name in ("Xd", "Xu", "X", "zeros")
        },
        optional=frozenset(f"glora_{path}_{name}" for path in "ABCDE" for name in ("Xd", "Xu", "X", "zeros")),
        kinds=frozenset({"linear"}),
    ),
    Method(
        "HIRA",
        "HiRA",
        "streamed",
        change="ΔW = W ∘ (B·A)",
        source="HiRA, ICLR 2025, openreview.net/forum?id=TwJrTz9cRS",
        tensors={f".hira_{name}": f"hira_{name}" for name in ("A", "B", "embedding_A", "embedding_B")},
        optional=frozenset(f"hira_{name}" for name in ("A", "B", "embedding_A", "embedding_B")),
        kinds=frozenset({"linear", "conv1d", "conv", "embedding"}),
        formula="hira:hira",
        settings=_hira,
    ),
    Method(
        "MISS",
        'MiSS with init_weights="bat"',
        "streamed",
        change="ΔWₚ = Wₚ·Dₚ + Dₚ on r×r blocks",
        source="MiSS, arXiv:2409.15371",
        tensors={".miss_block": "miss_block"},
        kinds=frozenset({"linear"}),
        formula="miss:miss_bat",
        settings=_miss_bat,
        applies=lambda config: config.get("init_weights") == "bat",
    ),
    Method(
        "MISS",
        "MiSS",
        "streamed",
        change="ΔW = D, an r×out (or r×mini_r) matrix, repeated",
        source="MiSS, arXiv:2409.15371",
        tensors={".miss_block": "miss_block"},
        kinds=frozenset({"linear"}),
        formula="miss:miss",
        settings=_miss,
    ),
)
