"""The adapter's config for PEFT, with exact module names in the place of rules that were written for another class."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ingraft.adapted.quiet import quiet
from ingraft.adapter import Adapter
from ingraft.errors import UnusableInput, first_line

# What says where the adapter was trained or which layers were chosen: decided already, by the tensors in the file.
_DROPPED = {
    "base_model_name_or_path", "revision", "task_type", "auto_mapping", "runtime_config", "exclude_modules",
    "layers_to_transform", "layers_pattern", "megatron_config", "target_modules", "target_parameters",
    "modules_to_save", "trainable_token_indices", "inference_mode",
}  # fmt: skip
_MATCHED_BELOW = ("FOURIERFT", "C3A")  # keys of patterns match by an older rule there
_NO_MODULES = "dummy-target-modules"  # PEFT's word for: only modules_to_save and trainable tokens


def peft_config(
    adapter: Adapter,
    modules: Mapping[str, str],
    *,
    parameters: Mapping[str, str] | None = None,
    modules_to_save: Sequence[str] = (),
    tokens: Mapping[str, str] | None = None,
) -> Any:
    """A `PeftConfig` that adapts exactly `modules` (name in the adapter → name in the model).

    parameters       parameters that are adapted instead of whole modules, as `modules`
    modules_to_save  the model's modules that the adapter holds whole
    tokens           embeddings with retrained rows, as `modules`
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils.peft_types import PeftType

    raw = adapter.config.raw
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[adapter.config.peft_type]]
    known = {field.name for field in dataclasses.fields(config_class) if field.init}
    values: dict[str, Any] = {key: value for key, value in raw.items() if key in known - _DROPPED}
    values["inference_mode"] = True
    values["target_modules"] = sorted(modules.values()) or ([] if parameters else _NO_MODULES)
    if parameters:
        values["target_parameters"] = sorted(parameters.values())
    if modules_to_save:
        values["modules_to_save"] = sorted(modules_to_save)
    if tokens and raw.get("trainable_token_indices"):
        values["trainable_token_indices"] = {live: _token_indices(adapter, name) for name, live in tokens.items()}
    values |= _patterns(raw, {**modules, **(parameters or {})}, adapter.config.peft_type)
    if "feedforward_modules" in values:
        is_feedforward = _feedforward_rule(raw["feedforward_modules"])
        values["feedforward_modules"] = sorted(live for name, live in modules.items() if is_feedforward(name))
    try:
        with quiet():
            return config_class(**values)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = first_line(error)
        raise UnusableInput(f"{adapter.folder / 'adapter_config.json'}: peft does not take it: {reason}") from None


def _patterns(raw: Mapping[str, Any], modules: Mapping[str, str], peft_type: str) -> dict[str, Any]:
    """`rank_pattern` and its like by the model's own names, one entry for every module."""
    if peft_type == "ADALORA":
        pruned = raw.get("rank_pattern") or {}
        return {"rank_pattern": {_pruned_name(name, modules): kept for name, kept in pruned.items()} or None}
    result: dict[str, Any] = {}
    for key, pattern in raw.items():
        if key.endswith("_pattern") and key not in _DROPPED and isinstance(pattern, dict) and pattern:
            values = {name: _value(raw, key, name, peft_type) for name in modules}
            spelled = _plain_name if peft_type in _MATCHED_BELOW else _exact
            result[key] = {spelled(modules[name]): value for name, value in values.items() if value is not None}
    return result


def _value(raw: Mapping[str, Any], key: str, module: str, peft_type: str) -> Any:
    """What a pattern says about `module`, by the method's own rule; None where nothing fits."""
    pattern = raw[key]
    if peft_type == "OSF":
        return next((value for rule, value in pattern.items() if re.search(rule, module)), None)
    if peft_type in _MATCHED_BELOW:
        fitting = next((rule for rule in pattern if re.match(rf".*\.{rule}$", module)), module)
        return pattern.get(fitting)
    from peft.utils.other import get_pattern_key

    return pattern.get(get_pattern_key(pattern.keys(), module))


def _plain_name(module: str) -> str:
    return module


def _exact(module: str) -> str:
    return f"^{re.escape(module)}$"


def _pruned_name(name: str, modules: Mapping[str, str]) -> str:
    """`encoder.layer.0.query.lora_E`, as AdaLoRA names what it pruned, for the model's own module."""
    module = name.removeprefix("base_model.model.").partition(".lora_E")[0]
    return f"{modules.get(module, module)}.lora_E"


def _feedforward_rule(rule: Any) -> Callable[[str], bool]:
    """Is a module one that (IA)³ scales at its input? PEFT's own rule."""
    if isinstance(rule, str):
        return lambda module: re.fullmatch(rule, module) is not None
    endings = tuple(rule or ())
    return lambda module: module.endswith(endings) if endings else False


def _token_indices(adapter: Adapter, module: str) -> list[int]:
    indices = adapter.config.raw["trainable_token_indices"]
    if isinstance(indices, dict):
        for name, own in indices.items():
            if module == name or module.endswith(name):
                return list(own)
        raise UnusableInput(f"{adapter.name}: trainable_token_indices says nothing about {module}.")
    return list(indices)
