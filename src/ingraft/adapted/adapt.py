"""Put one adapter on a live transformer: names, resized embeddings, PEFT's layers, and no tensor left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingraft.adapted.config import peft_config
from ingraft.adapted.coverage import check_covered, configured_modules
from ingraft.adapted.displaced import adapt_displaced
from ingraft.adapted.heads import check_heads_trained
from ingraft.adapted.inject import inject
from ingraft.adapted.keys import AdapterKeys, unwrapped
from ingraft.adapted.names import LiveNames, live_names
from ingraft.adapted.quiet import quiet
from ingraft.adapted.tensors import read_tensors
from ingraft.adapter import Adapter
from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput


@dataclass(frozen=True)
class Part:
    """One adapter, its base, and the live transformers model that it goes on."""

    adapter: Adapter
    base: BaseModel
    keys: AdapterKeys
    transformer: Any


@dataclass(frozen=True)
class Changes:
    """What an adapter changed in the live model, by its names, and what belongs to a head that it does not have."""

    touched: tuple[str, ...]
    absent: tuple[str, ...]


def adapt(part: Part, *, trust_remote_code: bool) -> Changes:
    """Put the adapter on `part.transformer`, in place.

    Raises UnusableInput when a tensor of the adapter does not arrive, or one is missing.
    """
    adapter, keys, model = part.adapter, part.keys, part.transformer
    names = live_names(adapter, keys, part.base, model, trust_remote_code=trust_remote_code)
    _resize(adapter, keys, names, model)
    check_heads_trained(model, part.base, names.saved.values(), trust_remote_code=trust_remote_code)
    if names.displaced:
        adapt_displaced(adapter, keys, part.base, model, names.displaced)
    tuned = {module: names.modules[unwrapped(module)] for module in keys.tuned if unwrapped(module) in names.modules}
    check_covered(adapter, tuned, model)
    if keys.shared and not keys.tuned:
        tuned = configured_modules(adapter, model)
    tokens = {module: names.modules[module] for module in keys.tokens if module in names.modules}
    parameters = _target_parameters(adapter, tuned, model)
    owners = {parameter.rpartition(".")[0] for parameter in parameters.values()}
    whole = _whole_modules(adapter, keys, names)
    config = peft_config(
        adapter,
        {module: live for module, live in tuned.items() if live not in owners},
        parameters=parameters,
        modules_to_save=whole,
        tokens=tokens,
    )
    state = _state(keys, names)
    _check_all_used(adapter, keys, names, state)
    if state:
        inject(model, config, read_tensors(adapter, state), who=adapter.name)
    touched = {*tuned.values(), *tokens.values(), *names.saved.values()}
    touched |= {place.parameter for places in names.displaced.values() for place in places}
    return Changes(tuple(sorted(touched)), names.absent)


def _resize(adapter: Adapter, keys: AdapterKeys, names: LiveNames, model: Any) -> None:
    """Give the model as many embeddings as the adapter brings, where the vocabulary was resized for training."""
    embeddings = model.get_input_embeddings()
    own = next((name for name, module in model.named_modules() if module is embeddings), None)
    for name, live in names.saved.items():
        rows = adapter.tensors[keys.saved[name].key].shape[0]
        if live == f"{own}.weight" and rows != embeddings.weight.shape[0]:
            with quiet():
                model.resize_token_embeddings(rows, mean_resizing=False)
            return


def _target_parameters(adapter: Adapter, tuned: Mapping[str, str], model: Any) -> dict[str, str]:
    """Parameters that are adapted by themselves (`target_parameters`): name in the adapter → name in the model."""
    wanted = adapter.config.raw.get("target_parameters") or []
    found = {}
    for module, live in tuned.items():
        plain = unwrapped(module)
        for parameter, _ in model.get_submodule(live).named_parameters(recurse=False):
            name = f"{plain}.{parameter}"
            if any(name == key or name.endswith(f".{key}") for key in wanted):
                found[name] = f"{live}.{parameter}"
    return found


def _whole_modules(adapter: Adapter, keys: AdapterKeys, names: LiveNames) -> list[str]:
    """The live model's modules that PEFT has to copy because the adapter holds them whole (modules_to_save)."""
    found = []
    for parameter, live in names.saved.items():
        if keys.saved[parameter].wrapped:
            continue
        module, live_module = parameter.split("."), live.split(".")
        for entry in adapter.config.modules_to_save:
            at = _position(module, entry.split("."))
            if at is not None:
                below = len(module) - at
                found.append(".".join(live_module[: len(live_module) - below]))
                break
    return sorted(set(found))


def _position(parts: list[str], entry: list[str]) -> int | None:
    """Where `entry` ends in `parts`."""
    for start in range(len(parts) - len(entry)):
        if parts[start : start + len(entry)] == entry:
            return start + len(entry)
    return None


def _state(keys: AdapterKeys, names: LiveNames) -> dict[str, str]:
    """Name that PEFT expects → key in the file, for all that goes into the live model through PEFT."""
    state: dict[str, str] = {}
    if not keys.tuned or any(unwrapped(module) in names.modules for module in keys.tuned):
        state |= {f"base_model.{name}": key for name, key in keys.shared.items()}
    for owners in (keys.tuned, keys.tokens):
        for module, tensors in owners.items():
            plain = unwrapped(module)
            if plain in names.modules:
                live = names.modules[plain] + module[len(plain) :]
                state |= {f"base_model.model.{live}.{tail}": key for tail, key in tensors.items()}
    adapted = {names.modules[unwrapped(module)] for module in keys.tuned if unwrapped(module) in names.modules}
    for parameter, live in names.saved.items():
        module, _, last = live.rpartition(".")
        inner = f"{module}.base_layer.{last}" if module in adapted else live
        state[f"base_model.model.{inner}"] = keys.saved[parameter].key
    return state


def _check_all_used(adapter: Adapter, keys: AdapterKeys, names: LiveNames, state: Mapping[str, str]) -> None:
    """Total accounting: every key of the file goes in by PEFT, by way of a displaced module, or is a head's."""
    elsewhere = {*names.displaced, *names.absent}
    used = {*state.values(), *keys.repeats}
    for owners in (keys.tuned, keys.tokens):
        used |= {
            key for module, tensors in owners.items() if unwrapped(module) in elsewhere for key in tensors.values()
        }
    used |= {saved.key for parameter, saved in keys.saved.items() if parameter in elsewhere}
    used |= set(keys.shared.values()) if names.displaced else set()
    unused = sorted(set(adapter.tensors) - used)
    if unused:
        raise UnusableInput(
            f"{len(unused)} of {len(adapter.tensors)} adapter tensors have no use, such as {unused[0]}."
        )
