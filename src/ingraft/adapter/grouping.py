"""Adapter tensors by what they belong to: target modules, shared tensors, saved parameters. None is left over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ingraft.adapter.adapter import Adapter
from ingraft.adapter.patterns import check_patterns
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.methods.method import Method

# Wrappers that leave their name in module paths: torch.compile, activation checkpointing, DDP.
_WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}

_CHUNK = 1 << 20


@dataclass(frozen=True)
class TargetModule:
    """One adapted module: parameter of the formula → key in the adapter file.

    parameter  the base's parameter that the formula is for: the module's weight, unless a parameter was targeted
    """

    module: str
    tensors: Mapping[str, str]
    parameter: str = ""

    @property
    def weight(self) -> str:
        return self.parameter or f"{self.module}.weight"

    @property
    def bias(self) -> str:
        return f"{self.module}.bias"

    @property
    def pattern_name(self) -> str:
        """The name that rank and alpha patterns are matched with: of the parameter, where one was targeted."""
        return self.parameter or self.module


@dataclass(frozen=True)
class SavedParameter:
    """A parameter of the base that the adapter holds whole (modules_to_save, trained biases, base layers).

    copies  the other tensors for it in the file: the same numbers again, or the base's from before the training
    """

    parameter: str
    key: str
    info: TensorInfo
    copies: tuple[TensorInfo, ...] = ()

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """Inputs of the edit that puts it in place: the `value`, and copies that have no other use."""
        return {"value": self.info, **{f"copy {number}": info for number, info in enumerate(self.copies, 1)}}


@dataclass(frozen=True)
class AdapterTensors:
    targets: tuple[TargetModule, ...]
    shared: Mapping[str, str]
    saved: tuple[SavedParameter, ...]
    notes: tuple[str, ...] = ()


def runtime_name(name: str) -> str:
    """`name` without the parts that wrappers left in it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def group_tensors(adapter: Adapter, method: Method) -> AdapterTensors:
    """Give every tensor of `adapter` to exactly one owner, by the key suffixes of `method`.

    The config's patterns are then known to be matched with these modules in no time (`check_patterns`)."""
    targets: dict[str, dict[str, str]] = {}
    shared: dict[str, str] = {}
    saved: dict[str, list[str]] = {}
    wrapped = False
    suffixes = sorted(method.tensors, key=len, reverse=True)
    replaced = sorted(method.replaces, key=len, reverse=True)
    for key in adapter.tensors:
        below, name = _strip(adapter, key)
        wrapped |= name != runtime_name(name)
        name = runtime_name(name)
        if below in method.shared:
            shared[method.shared[below]] = key
            continue
        if method.route == "in-memory" and not key.startswith("base_model.model."):
            shared[below] = key  # state of the whole model, which PEFT reads by itself
            continue
        for spelling in (name, _without_adapter_name(name)):
            suffix = next((s for s in suffixes if spelling.endswith(s) and len(spelling) > len(s)), None)
            if suffix is not None:
                owner = targets.setdefault(spelling[: -len(suffix)], {})
                _put(adapter, owner, method.tensors[suffix], key)
                break
            suffix = next((s for s in replaced if spelling.endswith(s) and len(spelling) > len(s)), None)
            if suffix is not None:
                saved.setdefault(f"{spelling[: -len(suffix)]}.{method.replaces[suffix]}", []).append(key)
                break
        else:
            saved.setdefault(_saved_name(name), []).append(key)
    check_patterns(adapter, targets)
    notes = ("wrapper names such as _orig_mod removed from the adapter's keys",) if wrapped else ()
    return AdapterTensors(
        tuple(TargetModule(module, tensors) for module, tensors in sorted(targets.items(), key=_natural)),
        shared,
        tuple(_saved(adapter, parameter, keys) for parameter, keys in sorted(saved.items())),
        notes,
    )


def _strip(adapter: Adapter, key: str) -> tuple[str, str]:
    """The key below `base_model.` and below `base_model.model.`."""
    if not key.startswith("base_model."):
        raise UnusableInput(
            f"{adapter.weights}: {key} does not begin with base_model., as the tensors of a PEFT adapter do.",
            hint="Save it with save_pretrained of peft or sentence-transformers.",
        )
    below = key.removeprefix("base_model.")
    return below, below.removeprefix("model.")


def _without_adapter_name(name: str) -> str:
    """State dicts saved by hand still carry the adapter's name: `lora_A.default.weight`."""
    return re.sub(r"\.default(?=\.(weight|bias)$|$)", "", name)


def _saved_name(name: str) -> str:
    name = re.sub(r"\.(modules_to_save(\.default)?|original_module)(?=\.)", "", name)
    return re.sub(r"\.base_layer(?=\.[^.]+$)", "", name)


def _saved(adapter: Adapter, parameter: str, keys: list[str]) -> SavedParameter:
    """With bias="all" PEFT writes the biases of modules_to_save up to three times: trained, again, and untrained."""
    trained = [key for key in keys if ".original_module." not in key]
    if not trained:
        raise UnusableInput(
            f"{adapter.weights}: {keys[0]} is what {parameter} was before the training; the trained one is missing.",
            hint="The file is incomplete; save the adapter again.",
        )
    first, *others = trained
    for other in others:
        if not same_bytes(adapter.tensors[first], adapter.tensors[other]):
            raise UnusableInput(f"{adapter.weights}: {first} and {other} are the same tensor with different numbers.")
    copies = tuple(adapter.tensors[key] for key in keys if key != first)
    return SavedParameter(parameter, first, adapter.tensors[first], copies)


def same_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Do two stored tensors have the same dtype, shape and bytes?"""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        sizes = (min(_CHUNK, one.nbytes - start) for start in range(0, one.nbytes, _CHUNK))
        return all(first.read(size) == second.read(size) for size in sizes)


def _put(adapter: Adapter, owner: dict[str, str], name: str, key: str) -> None:
    if name in owner:
        raise UnusableInput(f"{adapter.weights}: {key} and {owner[name]} are the same tensor under two names.")
    owner[name] = key


def _natural(item: tuple[str, object]) -> list[tuple[int, int | str]]:
    """`layer.2` before `layer.10`."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in item[0].split(".")]
