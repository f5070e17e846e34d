"""Settings of LoRA and its variants: scale, ranks and shapes by the config, held against the tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.methods.method import Setting, Target
from ingraft.methods.settings import HINT, check_present, check_shape, pattern_value, rank_of

Config = Mapping[str, Any]
Settings = dict[str, Setting]
Targets = Sequence[Target]


def lora(config: Config, target: Target, targets: Targets) -> Settings:
    if "trainable_tokens_delta" in target.tensors:
        return {"indices": token_indices(target, _token_indices(config, target))}
    rank = rank_of(config, target.module, 8)
    settings: Settings = {"scale": _scale(config, target, rank)}
    if target.kind == "embedding":
        check_present(target, "lora_embedding_A", "lora_embedding_B")
        _check_rank(target, "lora_embedding_A", rank)
        check_shape(target, "lora_embedding_A", (rank, target.shape[0]))
        check_shape(target, "lora_embedding_B", (target.shape[1], rank))
        return settings
    check_present(target, "lora_A", "lora_B")
    experts = _experts(config, target, rank)
    if experts is not None:
        settings["experts"] = experts
    else:
        _check_qalora(config, target)
        _check_factors(target, rank)
    return settings


def dora(config: Config, target: Target, targets: Targets) -> Settings:
    settings = lora(config, target, targets)
    if "trainable_tokens_delta" not in target.tensors:
        check_present(target, "lora_magnitude_vector")
        length = target.shape[target.kind == "embedding"]
        if math.prod(target.tensors["lora_magnitude_vector"]) != length:
            check_shape(target, "lora_magnitude_vector", (length,))
    return settings


def kasa(config: Config, target: Target, targets: Targets) -> Settings:
    settings = lora(config, target, targets)
    if target.kind == "linear":
        rank = rank_of(config, target.module, 8)
        check_present(target, "lora_diag")
        check_shape(target, "lora_diag", (rank,))
        if rank >= min(target.shape):
            raise UnusableInput(
                f"{target.module}: rank {rank} of KaSA leaves nothing of its weight of {list(target.shape)}.",
                hint=HINT,
            )
    return settings


def block_diagonal(config: Config, target: Target, targets: Targets) -> Settings:
    if target.kind == "embedding":
        return lora(config, target, targets)
    blocks = {"A": 1, "B": 1}
    wanted = config["use_bdlora"]
    for side, names in (("A", "target_modules_bd_a"), ("B", "target_modules_bd_b")):
        if any(name in target.module for name in wanted.get(names) or ()):
            blocks[side] = int(wanted.get("nblocks", 1))
            break
    check_present(target, "lora_A", "lora_B")
    rank = rank_of(config, target.module, 8)
    out, columns = target.shape
    _check_rank(target, "lora_A", rank)
    check_shape(target, "lora_A", (rank, columns // blocks["A"]))
    check_shape(target, "lora_B", (out, rank // blocks["B"]))
    return {"scale": _scale(config, target, rank), "blocks_A": blocks["A"], "blocks_B": blocks["B"]}


def changed_base(config: Config, target: Target, targets: Targets) -> Settings:
    if target.kind == "embedding":
        return lora(config, target, targets)
    check_present(target, "lora_A", "lora_B")
    rank = rank_of(config, target.module, 8)
    # A decomposition has no more parts than the weight has rows or columns; the scale goes by the rank asked for.
    _check_factors(target, min(rank, *target.shape))
    return {"scale": _scale(config, target, rank), "transposed": target.kind == "conv1d"}


def token_indices(target: Target, indices: Sequence[int]) -> tuple[int, ...]:
    """The tokens whose rows were saved. Raises UnusableInput where they and the embedding do not fit together."""
    tokens, width = target.shape
    check_shape(target, "trainable_tokens_delta", (len(indices), width))
    outside = [index for index in indices if not 0 <= index < tokens]
    if outside:
        raise UnusableInput(
            f"{target.module}: the adapter trained token {outside[0]}, but the base has {tokens} tokens.",
            hint="Resize the base's embedding to the adapter's tokenizer, save it, and pass it with --base.",
        )
    return tuple(int(index) for index in indices)


def _token_indices(config: Config, target: Target) -> Sequence[int]:
    wanted = config.get("trainable_token_indices")
    if isinstance(wanted, Mapping):
        found = [indices for name, indices in wanted.items() if target.module.endswith(name)]
        wanted = found[0] if found else None
    if not wanted:
        raise UnusableInput(
            f"adapter_config.json: trainable_token_indices has nothing for {target.module}, which has trained tokens.",
            hint=HINT,
        )
    return list(wanted)


def _scale(config: Config, target: Target, rank: int) -> float:
    alpha = float(pattern_value(config, "alpha_pattern", target.module, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_rank(target: Target, parameter: str, expected: int) -> None:
    found = target.tensors[parameter][0]
    if found != expected:
        raise UnusableInput(
            f"{target.module}: {parameter} has rank {found}, by adapter_config.json it is {expected}.", hint=HINT
        )


def _check_factors(target: Target, rank: int) -> None:
    """A [rank, in], B [out, rank], with or without the axes of a convolution."""
    _check_rank(target, "lora_A", rank)
    out, columns = target.shape
    (_, *inner), (rows, *outer) = target.tensors["lora_A"], target.tensors["lora_B"]
    if target.kind == "conv" and math.prod(inner) != columns and math.prod(inner) % columns == 0:
        raise UnusableInput(
            f"{target.module} is a convolution in {math.prod(inner) // columns} groups, and LoRA's change mixes them.",
            hint="Train without this layer: no merge can express it.",
        )
    if math.prod(inner) != columns:
        check_shape(target, "lora_A", (rank, columns))
    if (rows, math.prod(outer)) != (out, rank):
        check_shape(target, "lora_B", (out, rank))


def _check_qalora(config: Config, target: Target) -> None:
    """PEFT heeds `use_qalora` on GPTQ-quantised layers alone; there A sees the means of groups of inputs."""
    if config.get("use_qalora"):
        group = int(config.get("qalora_group_size", 16))
        a = target.tensors["lora_A"]
        if group > 1 and len(a) == 2 and a[1] * group == target.shape[1]:
            raise UnusableInput(
                f"{target.module} was trained with QA-LoRA on GPTQ-quantised weights, which no merge can change.",
                hint="Serve it through PEFT, or train LoRA instead.",
            )


def _experts(config: Config, target: Target, rank: int) -> int | None:
    """How many matrices a targeted parameter [experts, …] stacks; its shape arrives as (experts, out·in)."""
    a, b = target.tensors["lora_A"], target.tensors["lora_B"]
    if not config.get("target_parameters") or len(a) != 2 or len(b) != 2 or target.shape == (b[0], a[1]):
        return None
    experts, size = target.shape
    if b[0] * a[1] != size:
        return None
    check_shape(target, "lora_A", (experts * rank, a[1]))
    check_shape(target, "lora_B", (b[0], rank * experts))
    return experts
