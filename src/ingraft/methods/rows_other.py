"""Rows for methods whose change is sparse, spectral, circulant, in the bias, or made from the base weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.methods.method import Method, Setting, Target
from ingraft.methods.settings import (
    below_pattern_value,
    check_divides,
    check_present,
    check_shape,
    pattern_value,
    rank_of,
    seed_of,
)

Config = Mapping[str, Any]
Settings = dict[str, Setting]
Targets = Sequence[Target]

# What `waveft.FILTERS` and `peanut.ACTIVATIONS` hold; those files import torch.
WAVELETS = frozenset(
    [f"db{n}" for n in range(1, 11)] + [f"sym{n}" for n in range(2, 11)] + [f"coif{n}" for n in range(1, 4)]
)
ACTIVATIONS = frozenset({"gelu", "leaky_relu", "linear", "mish", "relu", "relu6", "sigmoid", "silu", "swish", "tanh"})

# Tensors that are numbered in the file, up to more than anybody trains.
HIDDEN_LAYERS = tuple(f"{side}.{number}" for side in ("encoders", "decoders") for number in range(32))
SUBSPACES = tuple(f"adamss_{side}.{number}" for side in "AB" for number in range(512))


def _fourierft(config: Config, target: Target, targets: Targets) -> Settings:
    count = below_pattern_value(config, "n_frequency_pattern", target.module, config.get("n_frequency", 1000))
    check_shape(target, "fourierft_spectrum", (count,))
    return {
        "shape": target.shape,
        "seed": seed_of(config, "random_loc_seed", 777),
        "scaling": float(config.get("scaling", 150.0)),
    }


def _waveft(config: Config, target: Target, targets: Targets) -> Settings:
    count = config.get("n_frequency", 2592)
    if config.get("proportional_parameters"):
        share = target.shape[0] * target.shape[1] / sum(t.shape[0] * t.shape[1] for t in targets)
        count = max(1, round(share * count * len(targets)))
    else:
        count = pattern_value(config, "n_frequency_pattern", target.module, count)
    check_shape(target, "waveft_spectrum", (count,))
    return {
        "shape": target.shape,
        "seed": seed_of(config, "random_loc_seed", 777),
        "scaling": float(config.get("scaling", 25.0)),
        "wavelet": str(config.get("wavelet_family", "db1")) if config.get("use_idwt", True) else None,
    }


def _c3a(config: Config, target: Target, targets: Targets) -> Settings:
    size = below_pattern_value(config, "block_size_pattern", target.module, config.get("block_size", 256))
    check_divides(target, "block_size", size, *target.shape)
    check_shape(target, "c3a_kernel", (target.shape[0] // size, target.shape[1] // size, size))
    return {}


def _shira(config: Config, target: Target, targets: Targets) -> Settings:
    count = rank_of(config, target.module, 32) * sum(target.shape)
    check_shape(target, "shira_weight", (count,))
    check_shape(target, "shira_indices", (2, count))
    return {}


def _supertuning(config: Config, target: Target, targets: Targets) -> Settings:
    out, columns = target.shape
    count = int(out * columns * (1 - float(config.get("sparsity", 0.99))))
    check_shape(target, "supertuning_values", (count,))
    check_shape(target, "supertuning_indices", (count,))
    if config.get("r") is None:
        return {"scale": 0.0}
    rank = rank_of(config, target.module, 1)
    check_present(target, "supertuning_lora_A", "supertuning_lora_B")
    check_shape(target, "supertuning_lora_A", (rank, columns))
    check_shape(target, "supertuning_lora_B", (out, rank))
    alpha = config.get("lora_alpha")
    return {"scale": (2.0 * rank if alpha is None else float(alpha)) / rank}


def _beft(config: Config, target: Target, targets: Targets) -> Settings:
    if not target.has_bias:
        raise UnusableInput(
            f"{target.module} has no bias in the base, and BEFT trains nothing but biases.",
            hint="Serve it through PEFT; a merge adds no parameters that the model's class lacks.",
        )
    check_shape(target, "beft_bias", (1, target.shape[0]))
    return {}


def _deft(config: Config, target: Target, targets: Targets) -> Settings:
    out, columns = target.shape
    rank = min(rank_of(config, target.module, 8), out)
    check_shape(target, "deft_P", (out, rank))
    if not config.get("para"):
        check_present(target, "deft_R")
        check_shape(target, "deft_R", (rank, columns))
    decomposition = config.get("decomposition_method", "relu")
    if decomposition not in ("relu", "qr"):
        raise UnusableInput(f"adapter_config.json: decomposition_method is {decomposition!r}, expected 'relu' or 'qr'.")
    return {"decomposition": decomposition, "scale": float(config.get("alpha") or rank) / rank}


def _peanut(config: Config, target: Target, targets: Targets) -> Settings:
    rank = rank_of(config, target.module, 32)
    check_shape(target, "peanut_A", (rank, target.shape[0]))
    check_shape(target, "peanut_B", (target.shape[0], rank))
    return {"activation": str(config.get("act_fn", "relu")), "scaling": float(config.get("scaling", 1.0))}


ROWS: tuple[Method, ...] = (
    Method(
        "FOURIERFT",
        "FourierFT",
        "streamed",
        change="ΔW = s·Re(IDFT₂(F)), n coefficients in places grown from the seed",
        source="FourierFT, arXiv:2405.03003",
        tensors={".fourierft_spectrum": "fourierft_spectrum"},
        formula="fourierft:fourierft",
        settings=_fourierft,
    ),
    Method(
        "WAVEFT",
        "WaveFT",
        "streamed",
        change="ΔW = s·IDWT(C), n coefficients in places grown from the seed",
        source="WaveFT, arXiv:2505.12532",
        tensors={".waveft_spectrum": "waveft_spectrum"},
        formula="waveft:waveft",
        settings=_waveft,
        applies=lambda config: not config.get("use_idwt", True) or config.get("wavelet_family", "db1") in WAVELETS,
    ),
    Method(
        "WAVEFT",
        "WaveFT with another wavelet",
        "in-memory",
        change="ΔW = s·IDWT(C)",
        source="WaveFT, arXiv:2505.12532",
        reason="PEFT's filter of this wavelet is not the published one (coif4), or it has none.",
        tensors={".waveft_spectrum": "waveft_spectrum"},
    ),
    Method(
        "C3A",
        "C3A",
        "streamed",
        change="ΔW = circulant blocks / in",
        source="C3A, arXiv:2407.19342",
        tensors={".c3a_kernel": "c3a_kernel"},
        kinds=frozenset({"linear"}),
        formula="c3a:c3a",
        settings=_c3a,
    ),
    Method(
        "SHIRA",
        "SHiRA",
        "streamed",
        change="ΔW sparse, trained numbers at saved places",
        source="SHiRA, arXiv:2406.13175",
        tensors={".shira_weight": "shira_weight", ".shira_indices": "shira_indices"},
        kinds=frozenset({"linear"}),
        formula="shira:shira",
        settings=_shira,
    ),
    Method(
        "SUPERTUNING",
        "Super-Tuning",
        "streamed",
        change="ΔW sparse, trained numbers at saved places, + s·B·A",
        source="Super-Tuning, arXiv:2607.09287",
        tensors={
            ".supertuning_values": "supertuning_values",
            ".supertuning_indices": "supertuning_indices",
            ".supertuning_lora_A.weight": "supertuning_lora_A",
            ".supertuning_lora_B.weight": "supertuning_lora_B",
        },
        optional=frozenset({"supertuning_lora_A", "supertuning_lora_B"}),
        kinds=frozenset({"linear"}),
        formula="supertuning:supertuning",
        settings=_supertuning,
        applies=lambda config: bool(config.get("save_precomputed_indices", True)),
    ),
    Method(
        "SUPERTUNING",
        "Super-Tuning, places from the base",
        "in-memory",
        change="ΔW sparse, trained numbers where the base is largest, + s·B·A",
        source="Super-Tuning, arXiv:2607.09287",
        reason="The places are the largest elements of the whole base weight, as PEFT ranks them.",
        tensors={
            ".supertuning_values": "supertuning_values",
            ".supertuning_lora_A.weight": "supertuning_lora_A",
            ".supertuning_lora_B.weight": "supertuning_lora_B",
        },
        optional=frozenset({"supertuning_lora_A", "supertuning_lora_B"}),
        kinds=frozenset({"linear"}),
    ),
    Method(
        "BEFT",
        "BEFT",
        "streamed",
        change="Δb, no ΔW",
        source="BEFT, arXiv:2509.15974",
        tensors={".beft_bias": "beft_bias"},
        kinds=frozenset({"linear"}),
        bias="beft:beft",
        bias_tensors=frozenset({"beft_bias"}),
        settings=_beft,
    ),
    Method(
        "DEFT",
        "DEFT",
        "streamed",
        change="ΔW = Q·(s·R − Sᵀ·W)",
        source="DEFT, NeurIPS 2025",
        tensors={".deft_P": "deft_P", ".deft_R": "deft_R"},
        optional=frozenset({"deft_R"}),
        formula="deft:deft",
        settings=_deft,
    ),
    Method(
        "PEANUT",
        "PEANuT",
        "streamed",
        change="ΔW = s·B·σ(A·W)",
        source="PEANuT, arXiv:2410.01870",
        tensors={".peanut_A.weight": "peanut_A", ".peanut_B.weight": "peanut_B"},
        kinds=frozenset({"linear"}),
        formula="peanut:peanut",
        settings=_peanut,
        applies=lambda config: not config.get("depth", 0) and config.get("act_fn", "relu") in ACTIVATIONS,
    ),
    Method(
        "PEANUT",
        "PEANuT with hidden layers",
        "in-memory",
        change="ΔW = a network of the columns of W",
        source="PEANuT, arXiv:2410.01870",
        reason="Its network has hidden layers, or an activation that transformers defines.",
        tensors={
            ".peanut_A.weight": "peanut_A",
            ".peanut_B.weight": "peanut_B",
            **{f".peanut_{name}.weight": f"peanut_{name}" for name in HIDDEN_LAYERS},
        },
        optional=frozenset(f"peanut_{name}" for name in HIDDEN_LAYERS),
        kinds=frozenset({"linear"}),
    ),
    Method(
        "ADAMSS",
        "AdaMSS",
        "in-memory",
        change="ΔW = B·A·V on rows clustered by the base's singular vectors",
        source="AdaMSS, NeurIPS 2025, openreview.net/forum?id=8ZdWmpYxT0",
        reason="Which rows it changes is a clustering of the base weight that is not in the file.",
        tensors={".adamss_newB": "adamss_newB", **{f".{name}": name for name in SUBSPACES}},
        optional=frozenset(SUBSPACES),
        kinds=frozenset({"linear"}),
    ),
    Method(
        "FROD",
        "FRoD",
        "in-memory",
        change="W' = U·(diag(L) + S)·Vᵀ",
        source="FRoD, AAAI 2026, doi.org/10.1609/aaai.v40i31.39813",
        reason="U is solved for from the base weight and a basis that modules of one role share.",
        tensors={".frod_lambda_l": "frod_lambda_l", ".frod_lambda_s_values": "frod_lambda_s_values"},
    ),
)
