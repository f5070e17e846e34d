"""Whose an adapter key is: PEFT's own mark in it (`lora_`, `hada_`, `vera_lambda_` …) parts module from tensor.

This asks PEFT and not the table of methods, so that a wrong row there cannot also be wrong here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingraft.adapter import Adapter
from ingraft.adapter.grouping import runtime_name, same_bytes
from ingraft.errors import UnusableInput

_TOKENS = "token_adapter"
_WRAPPER = ".base_layer"


@dataclass(frozen=True)
class SavedKey:
    """A whole parameter in the file. `wrapped`: it is the base's own parameter below an adapted module."""

    key: str
    wrapped: bool


@dataclass(frozen=True)
class AdapterKeys:
    """All keys of an adapter file.

    tuned   adapted module → what PEFT calls the tensor below it (`lora_A.weight`) → key
    tokens  embedding with retrained rows → tensor below it → key
    shared  name below `base_model.` of a tensor that modules share → key
    saved   parameter → where it stands whole
    repeats keys that say nothing new: with bias="all" PEFT writes the biases of modules_to_save up to three times,
            trained, again, and as they were before
    """

    tuned: Mapping[str, Mapping[str, str]]
    tokens: Mapping[str, Mapping[str, str]]
    shared: Mapping[str, str]
    saved: Mapping[str, SavedKey]
    repeats: tuple[str, ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The adapted modules, those with wrapped parameters without PEFT's wrapper names."""
        return tuple(dict.fromkeys(unwrapped(module) for module in self.tuned))


def unwrapped(module: str) -> str:
    """`experts` for `experts.base_layer`, the inner one of two wrapped parameters."""
    while module.endswith(_WRAPPER):
        module = module.removesuffix(_WRAPPER)
    return module


def split_keys(adapter: Adapter) -> AdapterKeys:
    """Every key of the adapter's file under its owner. Raises UnusableInput for what is no PEFT adapter's key."""
    mark = _mark(adapter)
    tuned: dict[str, dict[str, str]] = {}
    tokens: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    saved: dict[str, SavedKey] = {}
    repeats: list[str] = []
    for key in adapter.tensors:
        if not key.startswith("base_model."):
            raise UnusableInput(f"{adapter.weights}: {key} does not begin with base_model., as PEFT's tensors do.")
        below = key.removeprefix("base_model.")
        if not below.startswith("model."):
            shared[_without_adapter_name(runtime_name(below))] = key
            continue
        parts = runtime_name(below.removeprefix("model.")).split(".")
        at = next((i for i, part in enumerate(parts) if i and part.startswith((mark, _TOKENS))), None)
        if at is None:
            if "original_module" in parts:
                repeats.append(key)
                continue
            name = re.sub(r"\.modules_to_save(\.default)?(?=\.)", "", ".".join(parts))
            parameter = name.replace(".base_layer.", ".")
            first = saved.setdefault(parameter, SavedKey(key, ".base_layer." in name))
            if first.key != key:
                _check_same(adapter, first.key, key)
                repeats.append(key)
            continue
        owners = tokens if parts[at] == _TOKENS else tuned
        owners.setdefault(".".join(parts[:at]), {})[_without_adapter_name(".".join(parts[at:]))] = key
    return AdapterKeys(tuned, tokens, shared, saved, tuple(repeats))


def _check_same(adapter: Adapter, first: str, other: str) -> None:
    if not same_bytes(adapter.tensors[first], adapter.tensors[other]):
        raise UnusableInput(f"{adapter.weights}: {first} and {other} are the same tensor with different numbers.")


def require_peft() -> None:
    """UnusableInput where PEFT's layers, which prove most methods, cannot be imported."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise UnusableInput(
            "Running the unmerged model needs peft.", hint="Install it with: pip install 'ingraft[verify]'"
        ) from None


def _mark(adapter: Adapter) -> str:
    """How the names of this method's tensors begin."""
    require_peft()
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils.peft_types import PeftType

    kind = adapter.config.peft_type
    if kind not in PeftType.__members__ or PeftType[kind] not in PEFT_TYPE_TO_TUNER_MAPPING:
        raise UnusableInput(
            f"{adapter.name}: the installed peft does not know {kind}.", hint="Update it with: pip install -U peft"
        )
    mark = PEFT_TYPE_TO_PREFIX_MAPPING.get(PeftType[kind])
    if mark is None:
        raise UnusableInput(f"{adapter.name}: {kind} changes no layer's weights, so there is nothing to merge.")
    return str(mark)


def _without_adapter_name(tail: str) -> str:
    """State dicts saved by hand still have it: `lora_A.default.weight`."""
    return re.sub(r"\.default(?=\.|$)", "", tail)
