"""What the settings functions of the methods table share: values by module, and shapes that must fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ingraft.errors import UnusableInput
from ingraft.methods.method import Target

HINT = "The config and the tensors belong to different adapters, or the base is another model."


def pattern_value(config: Mapping[str, Any], name: str, module: str, default: Any) -> Any:
    """The value for `module` in `rank_pattern` and its like: the first key that fits the end of its path."""
    return _first_match(config, name, module, default, r"(.*\.)?({})$")


def below_pattern_value(config: Mapping[str, Any], name: str, module: str, default: Any) -> Any:
    """As `pattern_value`, by the older rule of FourierFT and C3A: a key matches below another module only."""
    return _first_match(config, name, module, default, r".*\.{}$")


def _first_match(config: Mapping[str, Any], name: str, module: str, default: Any, rule: str) -> Any:
    patterns = config.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise UnusableInput(f"adapter_config.json: {name} is {patterns!r:.80}, expected values by module.")
    for key, value in patterns.items():
        try:
            if _compiled(rule.format(key)).match(module):
                return value
        except re.error as error:
            raise UnusableInput(
                f"adapter_config.json: {name} has the key {key!r}, no regular expression: {error}."
            ) from None
    return patterns.get(module, default)


# A pattern for each of a thousand modules, asked for each of them: re itself remembers 512.
@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def scale_of(config: Mapping[str, Any], module: str, rank: int, default: float, key: str = "alpha") -> float:
    """alpha/r with the module's own alpha (`alpha_pattern`); `key` is the config's name for alpha."""
    return float(pattern_value(config, "alpha_pattern", module, config.get(key, default))) / rank


def rank_of(config: Mapping[str, Any], module: str, default: int, key: str = "r") -> int:
    """The module's rank. Raises UnusableInput unless it is a positive integer."""
    rank = pattern_value(config, "rank_pattern", module, config.get(key, default))
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise UnusableInput(f"adapter_config.json: the rank of {module} is {rank!r}, expected a positive integer.")
    return rank


def seed_of(config: Mapping[str, Any], key: str, default: int) -> int:
    """A seed that torch takes."""
    return _within(config, key, default, -(2**63), 2**64 - 1)


def terms_of(config: Mapping[str, Any], key: str = "num_cayley_neumann_terms") -> int:
    """How many terms of a series are summed up, one multiplication each. PEFT's default is 5."""
    return _within(config, key, 5, 0, 1000)


def _within(config: Mapping[str, Any], key: str, default: int, least: int, most: int) -> int:
    number = int(config.get(key, default))
    if not least <= number <= most:
        raise UnusableInput(f"adapter_config.json: {key} is {number!s:.80}, expected {least} to {most}.")
    return number


def check_shape(target: Target, parameter: str, expected: Sequence[int]) -> None:
    """Raises UnusableInput when the module has the tensor and it has another shape."""
    found = target.tensors.get(parameter)
    if found is not None and tuple(found) != tuple(expected):
        raise UnusableInput(
            f"{target.module}: {parameter} has the shape {list(found)}, expected {list(expected)}.", hint=HINT
        )


def check_present(target: Target, *parameters: str) -> None:
    """Raises UnusableInput when the module lacks one of the tensors that the config asks for."""
    lacking = [parameter for parameter in parameters if parameter not in target.tensors]
    if lacking:
        raise UnusableInput(
            f"{target.module} has {', '.join(sorted(target.tensors))} but no {', '.join(lacking)}, "
            "which its config asks for.",
            hint="The file is incomplete; save the adapter again.",
        )


def check_divides(target: Target, what: str, divisor: int, *sides: int) -> None:
    """Raises UnusableInput when `divisor` does not divide a side of the weight."""
    if divisor < 1 or any(side % divisor for side in sides):
        raise UnusableInput(
            f"{target.module}: {what} {divisor} does not divide its weight of {list(target.shape)}.",
            hint=HINT,
        )


def largest(targets: Sequence[Target]) -> tuple[int, int]:
    """(out, in) that covers every target: the size of projections that all of them share."""
    return max(target.shape[0] for target in targets), max(target.shape[1] for target in targets)
