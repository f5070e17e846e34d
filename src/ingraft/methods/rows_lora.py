"""Rows for LoRA, its variants, and the starts that change the base. The first row that applies is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ingraft.methods import settings_lora as settings
from ingraft.methods.method import LayerKind, Method

Config = Mapping[str, Any]

# Embeddings take another formula than the row's. PEFT starts them plainly, whatever start the config names, and knows
# no other variant of theirs than DoRA.
_EMBEDDING_FORMULAS = {
    "lora:lora": "lora:lora_embedding",
    "block_diagonal:block_diagonal": "lora:lora_embedding",
    "dora:dora": "dora_embedding:dora_embedding",
    "pissa:pissa": "lora:lora_embedding",
    "pissa:olora": "lora:lora_embedding",
    "pissa:kasa": "lora:lora_embedding",
}
# So do stacks of experts (`target_parameters`): it wants to know which `expert` it is for.
_EXPERT_FORMULAS = {"lora:lora": "lora:lora_expert"}

TENSORS = {
    ".lora_A.weight": "lora_A",
    ".lora_B.weight": "lora_B",
    ".lora_B.bias": "lora_bias",
    ".lora_embedding_A": "lora_embedding_A",
    ".lora_embedding_B": "lora_embedding_B",
    ".token_adapter.trainable_tokens_delta": "trainable_tokens_delta",
}
_MAGNITUDES = {
    ".lora_magnitude_vector": "lora_magnitude_vector",
    ".lora_magnitude_vector.weight": "lora_magnitude_vector",
}
# Saved with the adapter, but of use while training only.
_VELORA = {".lora_velora_embed": "lora_velora_embed"}
_MONTECLORA = {
    f".lora_monteclora_sampler.{name}": f"lora_monteclora_{name}"
    for name in ("std_prior", "expert_weights_prior", "gaussian_var_prior", "expert_weights")
}

_LINEAR: frozenset[LayerKind] = frozenset({"linear", "conv1d", "embedding"})
_NOT_SAVED = (
    "What it took out of the base when training began was not saved; "
    "convert it to LoRA with save_pretrained(…, path_initial_model_for_weight_conversion=…)."
)


def _refused(name: str, source: str, reason: str, applies: Callable[[Config], bool]) -> Method:
    return Method("LORA", name, "refused", source=source, reason=reason, applies=applies)


def _merged(
    name: str,
    formula: str,
    change: str,
    source: str,
    settings_of: Callable[..., Any],
    applies: Callable[[Config], bool] = lambda config: True,
    more_tensors: Mapping[str, str] | None = None,
    kinds: frozenset[LayerKind] = _LINEAR,
) -> Method:
    tensors = {**TENSORS, **(more_tensors or {})}
    return Method(
        "LORA",
        name,
        "streamed",
        change=change,
        source=source,
        tensors=tensors,
        optional=frozenset(tensors.values()),
        kinds=kinds,
        formula=formula,
        embedding=_EMBEDDING_FORMULAS[formula],
        expert=_EXPERT_FORMULAS.get(formula, ""),
        bias="lora:lora_bias",
        bias_tensors=frozenset({"lora_bias"}),
        settings=settings_of,
        applies=applies,
    )


def _start(config: Config) -> str:
    return str(config.get("init_lora_weights", True))


def _is_given(name: str) -> Callable[[Config], bool]:
    """PEFT reads an empty sub-config as one of defaults; what is not there is null."""
    return lambda config: config.get(name) not in (None, False)


def _is_another_variant(config: Config) -> bool:
    names = ("use_dora", "use_bdlora", "kasa_config")
    return any(_is_given(name)(config) for name in names)


ROWS: tuple[Method, ...] = (
    _refused(
        "LoRA with replicated layers",
        "PEFT, layer_replication",
        "It runs layers of the base several times, each time with a change of its own, which no stored layer can "
        "hold; serve it through PEFT, or train without layer_replication.",
        lambda config: bool(config.get("layer_replication")),
    ),
    _refused(
        "aLoRA",
        "Activated LoRA, arXiv:2504.12397",
        "It changes the tokens after its invocation string alone; serve it through PEFT, or train LoRA instead.",
        lambda config: bool(config.get("alora_invocation_tokens")),
    ),
    _refused(
        "Arrow",
        "Arrow, arXiv:2405.11157",
        "It mixes several LoRA adapters anew for every token; merge one of them, each an adapter of its own.",
        _is_given("arrow_config"),
    ),
    _refused(
        "PiSSA by fast SVD",
        "PiSSA, arXiv:2404.02948",
        _NOT_SAVED,
        lambda config: _start(config).startswith("pissa") and _start(config) != "pissa",
    ),
    _refused("CorDA", "CorDA, arXiv:2406.05223", _NOT_SAVED, lambda config: _start(config).startswith("corda")),
    _refused("LoRA-GA", "LoRA-GA, arXiv:2407.05000", _NOT_SAVED, lambda config: _start(config) == "lora_ga"),
    _refused(
        "LoftQ",
        "LoftQ, arXiv:2310.08659",
        "It was trained on a quantised copy of the base; save that copy, set init_lora_weights to true in "
        "adapter_config.json, and merge into the copy.",
        lambda config: _start(config) == "loftq",
    ),
    Method(
        "LORA",
        "PiSSA or OLoRA with another variant",
        "in-memory",
        change="W₀ = W less its largest part, and DoRA, BD-LoRA or KaSA on W₀",
        source="PiSSA, arXiv:2404.02948; OLoRA, arXiv:2406.01775",
        reason="Its start takes a part out of the base, and the variant goes on from what remains.",
        tensors={**TENSORS, **_MAGNITUDES, ".lora_diag": "lora_diag"},
        optional=frozenset({*TENSORS.values(), *_MAGNITUDES.values(), "lora_diag"}),
        kinds=_LINEAR,
        applies=lambda config: (
            (_start(config) == "pissa" or _start(config).lower() == "olora") and _is_another_variant(config)
        ),
    ),
    _merged(
        "KaSA",
        "pissa:kasa",
        "W' = W less its r smallest singular parts + s·B·diag(d)·A",
        "KaSA, arXiv:2412.06071",
        settings.kasa,
        _is_given("kasa_config"),
        {".lora_diag": "lora_diag"},
        kinds=frozenset({"linear", "embedding"}),
    ),
    _merged(
        "DoRA",
        "dora:dora",
        "W' = m ∘ (W + s·B·A) / ‖W + s·B·A‖",
        "DoRA, arXiv:2402.09353",
        settings.dora,
        lambda config: bool(config.get("use_dora")),
        _MAGNITUDES,
        kinds=_LINEAR | {"conv"},
    ),
    _merged(
        "BD-LoRA",
        "block_diagonal:block_diagonal",
        "ΔW = s·B·A, A or B block-diagonal",
        "BD-LoRA, arXiv:2510.23346",
        settings.block_diagonal,
        _is_given("use_bdlora"),
    ),
    _merged(
        "PiSSA",
        "pissa:pissa",
        "W' = W less its r largest singular parts + s·B·A",
        "PiSSA, arXiv:2404.02948",
        settings.changed_base,
        lambda config: _start(config) == "pissa",
        {**_VELORA, **_MONTECLORA},
    ),
    _merged(
        "OLoRA",
        "pissa:olora",
        "W' = W − s·Qᵣ·Rᵣ + s·B·A, W = Q·R",
        "OLoRA, arXiv:2406.01775",
        settings.changed_base,
        lambda config: _start(config).lower() == "olora",
        {**_VELORA, **_MONTECLORA},
    ),
    _merged(
        "VeLoRA",
        "lora:lora",
        "ΔW = s·B·A",
        "VeLoRA, arXiv:2405.17991",
        settings.lora,
        _is_given("velora_config"),
        _VELORA,
    ),
    _merged(
        "MonteCLoRA",
        "lora:lora",
        "ΔW = s·B·A, the noise of training left out",
        "MonteCLoRA, arXiv:2411.04358",
        settings.lora,
        _is_given("monteclora_config"),
        _MONTECLORA,
    ),
    _merged(
        "rsLoRA",
        "lora:lora",
        "ΔW = s·B·A, s = α/√r",
        "rsLoRA, arXiv:2312.03732",
        settings.lora,
        lambda config: bool(config.get("use_rslora")),
        kinds=_LINEAR | {"conv"},
    ),
    _merged(
        "LoRA",
        "lora:lora",
        "ΔW = s·B·A, s = α/r",
        "LoRA, arXiv:2106.09685",
        settings.lora,
        kinds=_LINEAR | {"conv"},
    ),
)
