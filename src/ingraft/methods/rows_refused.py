"""Rows for methods that no merge can express: what they add depends on the input, or is no weight at all."""

from __future__ import annotations

from ingraft.methods.method import Method

_PROMPT = "It adds trained tokens to the input and changes no weight; serve it through PEFT, or train LoRA instead."
_CACHE = (
    "It adds trained keys and values to every layer's attention and changes no weight; "
    "serve it through PEFT, or train LoRA instead."
)


def _refused(peft_type: str, name: str, source: str, reason: str) -> Method:
    return Method(peft_type, name, "refused", source=source, reason=reason)


ROWS: tuple[Method, ...] = (
    _refused("PROMPT_TUNING", "Prompt tuning", "Prompt tuning, arXiv:2104.08691", _PROMPT),
    _refused("MULTITASK_PROMPT_TUNING", "Multitask prompt tuning", "MPT, arXiv:2303.02861", _PROMPT),
    _refused("P_TUNING", "P-tuning", "P-tuning, arXiv:2103.10385", _PROMPT),
    _refused("PREFIX_TUNING", "Prefix tuning", "Prefix-tuning, arXiv:2101.00190", _CACHE),
    _refused("CPT", "Context-aware prompt tuning", "CPT, arXiv:2410.17222", _PROMPT),
    _refused("CARTRIDGE", "Cartridges", "Cartridges, arXiv:2506.06266", _CACHE),
    _refused(
        "ADAPTION_PROMPT",
        "LLaMA-Adapter",
        "LLaMA-Adapter, arXiv:2303.16199",
        "It adds a gated attention over trained tokens to the layers and changes no weight; "
        "serve it through PEFT, or train LoRA instead.",
    ),
    _refused(
        "XLORA",
        "X-LoRA",
        "X-LoRA, arXiv:2402.07148",
        "It mixes its LoRA experts anew for every token; merge one expert, which is an adapter of its own.",
    ),
    _refused(
        "POLY",
        "Polytropon",
        "Poly, arXiv:2202.13914",
        "It mixes its skills by a task id that comes with the input; "
        "serve it through PEFT, or train LoRA for one task.",
    ),
    _refused(
        "LILY",
        "Lily",
        "Lily, arXiv:2407.09946",
        "It mixes its experts by a router that reads the input; serve it through PEFT, or train LoRA instead.",
    ),
    _refused(
        "SHADOW",
        "ShadowPEFT",
        "ShadowPEFT, arXiv:2604.19254",
        "It runs a second network beside the layers and changes no weight; "
        "serve it through PEFT, or train LoRA instead.",
    ),
)
