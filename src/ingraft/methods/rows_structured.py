"""Rows for methods that turn, scale or replace what the base has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.methods.method import Method, Setting, Target
from ingraft.methods.settings import HINT, check_divides, check_present, check_shape, rank_of, terms_of
from ingraft.methods.settings_lora import token_indices

Config = Mapping[str, Any]
Settings = dict[str, Setting]
Targets = Sequence[Target]


def _adalora(config: Config, target: Target, targets: Targets) -> Settings:
    """Pruned modules keep the scale of the rank they began with."""
    start = int(config.get("init_r", 12))
    pattern = config.get("rank_pattern") or {}
    kept = pattern.get(f"{target.module}.lora_E")
    rank = start if kept is None else sum(bool(keep) for keep in kept)
    out, columns = target.shape
    check_shape(target, "lora_E", (rank, 1))
    check_shape(target, "lora_A", (rank, columns))
    check_shape(target, "lora_B", (out, rank))
    alpha = float(config.get("lora_alpha", 8))
    return {"scale": (alpha if alpha > 0 else rank) / (start + 1e-5)}


def _oft(config: Config, target: Target, targets: Targets) -> Settings:
    columns = target.shape[1]
    blocks, size = int(config.get("r", 0)), int(config.get("oft_block_size", 32))
    if blocks:
        blocks = _nearest_divisor(columns, blocks)
        size = columns // blocks
    else:
        size = _nearest_divisor(columns, size)
        blocks = columns // size
    parameter = "oft_embedding_R" if "oft_embedding_R" in target.tensors else "oft_R"
    check_present(target, parameter)
    check_shape(target, parameter, (1 if config.get("block_share") else blocks, size * (size - 1) // 2))
    neumann = config.get("use_cayley_neumann", True)
    return {
        "block_size": size,
        "neumann_terms": terms_of(config) if neumann else None,
        "longest": float(config.get("eps", 6e-5)) if config.get("coft") else None,
    }


def _nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`, the smaller one of two: PEFT puts it in the place of `wanted`."""
    divisors = (divisor for divisor in range(1, number + 1) if number % divisor == 0)
    return min(divisors, key=lambda divisor: (abs(divisor - wanted), divisor))


def _boft(config: Config, target: Target, targets: Targets) -> Settings:
    out, columns = target.shape
    blocks, size = int(config.get("boft_block_num", 0)), int(config.get("boft_block_size", 4))
    check_divides(target, "boft_block_num or boft_block_size", blocks or size, columns)
    blocks, size = (blocks, columns // blocks) if blocks else (columns // size, size)
    # Without its CUDA extension PEFT trains one butterfly factor, whatever the config says: the tensor knows.
    factors = target.tensors["boft_R"][0]
    check_shape(target, "boft_R", (factors, blocks, size, size))
    if factors > 1 and (size % 2 or blocks % 2 ** (factors - 1)):
        raise UnusableInput(
            f"{target.module}: {blocks} blocks of {size} make no {factors} butterfly factors.", hint=HINT
        )
    if math.prod(target.tensors["boft_s"]) != out:
        check_shape(target, "boft_s", (out, 1))
    return {}


def _hra(config: Config, target: Target, targets: Targets) -> Settings:
    rank = int(config.get("r", 8))
    check_shape(target, "hra_u", (target.shape[1], rank))
    return {"orthogonal": bool(config.get("apply_GS", False))}


def _road(config: Config, target: Target, targets: Targets) -> Settings:
    name, group = str(config.get("variant", "road_1")), int(config.get("group_size", 64))
    if name not in ("road_1", "road_2", "road_4"):
        raise UnusableInput(f"adapter_config.json: variant is {name!r}, expected road_1, road_2 or road_4.")
    variant, out = int(name[-1]), target.shape[0]
    check_divides(target, "group_size", group, out)
    for parameter in ("road_theta", "road_alpha"):
        check_shape(target, parameter, (out * variant // 2,))
    return {"variant": variant, "group_size": group}


def _ia3(config: Config, target: Target, targets: Targets) -> Settings:
    names = config.get("feedforward_modules") or ()
    if isinstance(names, str):
        feedforward = re.fullmatch(names, target.module) is not None
    else:
        feedforward = any(target.module.endswith(name) for name in names)
    out, columns = target.shape
    if len(target.tensors["ia3_l"]) == 2:
        check_shape(target, "ia3_l", (1, columns) if feedforward else (out, 1))
    elif feedforward:
        raise UnusableInput(
            f"{target.module} is a convolution whose input (IA)³ scales, which cannot be merged by formula.",
            hint="Serve it through PEFT, or train with it among the target_modules only.",
        )
    elif math.prod(target.tensors["ia3_l"]) != out:
        check_shape(target, "ia3_l", (1, out))
    return {"feedforward": feedforward}


def _trainable_tokens(config: Config, target: Target, targets: Targets) -> Settings:
    return {"indices": token_indices(target, config.get("token_indices") or ())}


def _osf(config: Config, target: Target, targets: Targets) -> Settings:
    short = min(target.shape)
    value = config.get("effective_rank")
    for pattern, own in (config.get("rank_pattern") or {}).items():
        if re.search(pattern, target.module):
            value = own
            break
    if value is None:
        kept = short // 2
    else:
        kept = min(short, int(short * value) if isinstance(value, float) and 0 < value <= 1 else int(value))
    rank = short - kept
    out, columns = target.shape
    check_shape(target, "osf_U_low", (out, rank))
    check_shape(target, "osf_S_low", (rank,))
    check_shape(target, "osf_V_low", (rank, columns))
    return {}


def _psoft(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of({"r": config.get("r", 32)}, target.module, 32)
    orthogonal = bool(config.get("psoft_orth", True))
    neumann = bool(config.get("use_cayley_neumann", False))
    check_shape(target, "psoft_R", (rank * (rank - 1) // 2,) if orthogonal else (rank, rank))
    check_shape(target, "psoft_vector_a", (rank,))
    check_shape(target, "psoft_vector_b", (rank,))
    longest = config.get("cayley_neumann_eps") if neumann else None
    return {
        "rank": rank,
        "orthogonal": orthogonal,
        "neumann_terms": terms_of(config) if neumann else None,
        "longest": None if longest is None else float(longest),
        "symmetric": config.get("ab_svd_init", "psoft_init") == "pissa_init",
    }


_PSOFT_TENSORS = {
    ".psoft_R.weight": "psoft_R",
    ".psoft_R.vector_a": "psoft_vector_a",
    ".psoft_R.vector_b": "psoft_vector_b",
}

ROWS: tuple[Method, ...] = (
    Method(
        "ADALORA",
        "AdaLoRA",
        "streamed",
        change="ΔW = s·B·diag(E)·A",
        source="AdaLoRA, arXiv:2303.10512",
        tensors={f".lora_{name}": f"lora_{name}" for name in ("A", "B", "E")},
        kinds=frozenset({"linear", "conv1d", "conv"}),
        formula="adalora:adalora",
        settings=_adalora,
    ),
    Method(
        "OFT",
        "OFT",
        "streamed",
        change="W' = W·diag(R₁, R₂, …)ᵀ, R from Cayley's formula or its series",
        source="OFT, arXiv:2306.07280",
        tensors={".oft_R.weight": "oft_R", ".oft_embedding_R.weight": "oft_embedding_R"},
        optional=frozenset({"oft_R", "oft_embedding_R"}),
        # PEFT's forward of convolutions is none: it cuts the input into patches, turns and then adds them up.
        kinds=frozenset({"linear", "embedding"}),
        formula="oft:oft",
        settings=_oft,
    ),
    Method(
        "BOFT",
        "BOFT",
        "streamed",
        change="W' = diag(s)·W·(Mₙ·…·M₁)ᵀ, butterflies of block rotations",
        source="BOFT, arXiv:2311.06243",
        tensors={".boft_R": "boft_R", ".boft_s": "boft_s"},
        kinds=frozenset({"linear", "conv"}),
        formula="oft:boft",
        settings=_boft,
    ),
    Method(
        "HRA",
        "HRA",
        "streamed",
        change="W' = W·Π(I − 2·uᵢ·uᵢᵀ)",
        source="HRA, arXiv:2405.17484",
        tensors={".hra_u": "hra_u"},
        kinds=frozenset({"linear", "conv"}),
        formula="hra:hra",
        settings=_hra,
    ),
    Method(
        "ROAD",
        "RoAd",
        "streamed",
        change="W' = R·W, b' = R·b, R turns and scales pairs of outputs",
        source="RoAd, arXiv:2409.00119",
        tensors={".road_theta": "road_theta", ".road_alpha": "road_alpha"},
        kinds=frozenset({"linear"}),
        formula="road:road",
        bias="road:road_bias",
        settings=_road,
    ),
    Method(
        "IA3",
        "(IA)³",
        "streamed",
        change="W' = W·diag(l) (feedforward), or W' = diag(l)·W and b' = l ∘ b",
        source="(IA)³, arXiv:2205.05638",
        tensors={".ia3_l": "ia3_l"},
        kinds=frozenset({"linear", "conv1d", "conv"}),
        formula="ia3:ia3",
        bias="ia3:ia3_bias",
        settings=_ia3,
    ),
    Method(
        "LN_TUNING",
        "LayerNorm tuning",
        "streamed",
        change="W' and b' of norms as they were trained",
        source="LayerNorm tuning, arXiv:2312.11420",
        replaces={".ln_tuning_layers.weight": "weight", ".ln_tuning_layers.bias": "bias"},
        kinds=frozenset({"norm"}),
    ),
    Method(
        "TRAINABLE_TOKENS",
        "Trainable tokens",
        "streamed",
        change="Rows of the embedding as they were trained",
        source="PEFT, TrainableTokensModel",
        tensors={".trainable_tokens_delta": "trainable_tokens_delta"},
        kinds=frozenset({"embedding"}),
        formula="tokens:trainable_tokens",
        settings=_trainable_tokens,
    ),
    Method(
        "OSF",
        "OSF",
        "streamed",
        change="ΔW = U'·S'·V'ᵀ − U·S·Vᵀ, the smallest singular parts of W and what they became",
        source="OSF, arXiv:2504.07097",
        tensors={f".osf_svd_params.{name}": f"osf_{name}" for name in ("U_low", "S_low", "V_low")},
        kinds=frozenset({"linear"}),
        formula="osf:osf",
        settings=_osf,
    ),
    Method(
        "PSOFT",
        "PSOFT with a random SVD",
        "in-memory",
        change="ΔW = U·S·(R − I)·Vᵀ, the r largest singular parts of W turned",
        source="PSOFT, openreview.net/forum?id=FSHrinMArK",
        reason="Its decomposition (psoft_svd=lowrank) is random and magnifies last bits, so PEFT itself must make it.",
        tensors=_PSOFT_TENSORS,
        optional=frozenset({"psoft_vector_a", "psoft_vector_b"}),
        kinds=frozenset({"linear"}),
        applies=lambda config: config.get("psoft_svd", "full") == "lowrank",
    ),
    Method(
        "PSOFT",
        "PSOFT",
        "streamed",
        change="ΔW = U·S·(R − I)·Vᵀ, the r largest singular parts of W turned, their signs as LAPACK has them here",
        source="PSOFT, openreview.net/forum?id=FSHrinMArK",
        tensors=_PSOFT_TENSORS,
        optional=frozenset({"psoft_vector_a", "psoft_vector_b"}),
        kinds=frozenset({"linear"}),
        formula="psoft:psoft",
        settings=_psoft,
    ),
)
