"""What `auto` stands for in learning_rate, lora.r and lora.alpha: by the size of the base and the number of rows.

Learning rate. 1e-3 measured best for rank 8 on a base of 22.7 M parameters (benchmarks/training.md), the only one that
was measured. With 7 B, LoRA for embeddings is trained at 1e-4 with α = 32 (E5-Mistral; Wang et al., Improving Text
Embeddings with Large Language Models, 2024). Between them it falls roughly with the root of the number of parameters,
which is how Thinking Machines' tinker cookbook scales from model to model. All are some ten times what full fine-tuning
takes (Schulman et al., LoRA Without Regret, 2025).

Rank. Beyond what the data can fill, more rank changes little (both papers). A row says at most log2(batch size) bits,
six in a batch of 64, and a parameter holds some two: rank 8 on the smallest bases, a third of a million parameters,
lasts for 100,000 rows.

α = 4·r: the scale is 4 at every rank. What a step changes goes with α times the rate: with the same α the best rate is
the same at every rank (Schulman et al.), and with twice the α it measured half as high. So the table's rates, which are
for α = 32, are multiplied with 32 / α.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ingraft.training.config import TrainingConfig
from ingraft.training.facts import Chosen
from ingraft.training.methods import PRESETS, plain_name

_SCALE, _USUAL_ALPHA = 4, 32
_NO_END = float("inf")
# Bases below so many parameters: their rate.
_RATES = ((200e6, 1e-3), (1e9, 5e-4), (4e9, 2e-4), (_NO_END, 1e-4))
# Fewer rows to train on than these: their rank.
_RANKS = ((100_000, 8), (1_000_000, 16), (_NO_END, 32))
# What was measured, and what is known, is of these. The others take one rate for all sizes.
_RATED = ("lora", "dora")
_OTHER_RATE = 1e-3


def undecided(config: TrainingConfig) -> bool:
    """Is a setting `auto` that the method has?"""
    ranked = plain_name(config.method) in PRESETS
    return config.learning_rate == "auto" or (ranked and "auto" in (config.lora.r, config.lora.alpha))


def decided(config: TrainingConfig, *, parameters: int, rows: int) -> tuple[TrainingConfig, Chosen]:
    """`config` with numbers for `auto`, and why these; what is a number stays. `rows` are those that are trained on."""
    method, rate, lora = plain_name(config.method), config.learning_rate, config.lora
    r, alpha = lora.r, lora.alpha
    words = []
    if method in PRESETS:
        if r == "auto":
            number, bounds = _row(_RANKS, rows, "{:,.0f}".format)
            r = int(number)
            words.append(f"rank {r} for data {bounds} rows")
        if alpha == "auto":
            # rsLoRA divides by √r in place of r, so that its α need not follow the rank.
            alpha = _USUAL_ALPHA if method == "rslora" else _SCALE * r
            words.append(f"α {alpha}" if method == "rslora" else f"α {alpha} for the scale {_SCALE}")
    if rate == "auto" and method in _RATED and alpha != "auto":
        rate, bounds = _row(_RATES, parameters, _millions)
        rate *= _USUAL_ALPHA / alpha
        words.append(f"learning rate {rate:g} for bases {bounds} parameters and α {alpha}")
    elif rate == "auto":
        rate = _OTHER_RATE
        words.append(f"learning rate {rate:g} for all bases with {method}")
    return replace(config, learning_rate=rate, lora=replace(lora, r=r, alpha=alpha)), Chosen(tuple(words))


def _row(table: Sequence[tuple[float, float]], size: float, shown: Callable[[float], str]) -> tuple[float, str]:
    """The value of the first row whose limit is above `size`, and between which sizes it holds, in words."""
    place = next(place for place, (end, _) in enumerate(table) if size < end)
    end, value = table[place]
    start = table[place - 1][0] if place else 0
    if end == _NO_END:
        return value, f"from {shown(start)}"
    return value, f"{shown(start)} to {shown(end)}" if start else f"below {shown(end)}"


def _millions(parameters: float) -> str:
    return f"{parameters / 1e6:g} M" if parameters < 1e9 else f"{parameters / 1e9:g} B"
