"""The PEFT method of a run, by name, with its own arguments: checked before a model is loaded."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.methods.method import Method
from ingraft.methods.table import METHODS, method_for
from ingraft.training.config import LoraSettings, TrainingConfig

# LoRA and what is LoRA with one more argument.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}
# These take part of the base into the adapter when they begin.
CONVERTED = ("pissa", "olora")
_SHARED = "its layers share tensors, and PEFT does not put such a method into another library's model"
_UNTRAINABLE = {
    "ADALORA": "its ranks are to be allocated anew after each step, which no trainer does",
    "TRAINABLE_TOKENS": "it is for new tokens, which a data file does not name",
    **dict.fromkeys(("FROD", "PVERA", "RANDLORA", "TINYLORA", "UNILORA", "VBLORA", "VERA"), _SHARED),
}
# Arguments of ours, or of the run.
_OURS = ("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping")


@dataclass(frozen=True)
class TrainedMethod:
    """A PEFT method: its row of the methods table, and the arguments of its config but for the targets.

    settings  what to show of it
    is_lora   rank, alpha and dropout are those of the `lora` settings
    """

    row: Method
    peft_type: str
    arguments: Mapping[str, Any]
    settings: Mapping[str, float | str]
    is_lora: bool
    converted: bool = False

    @property
    def takes_targets(self) -> bool:
        return "target_modules" in _fields(self.peft_type)

    def config(self, targets: list[str], excluded: list[str], modules_to_save: list[str]) -> Any:
        """PEFT's config for these layers. UnusableInput when PEFT refuses it."""
        known = _fields(self.peft_type)
        arguments = dict(self.arguments)
        for name, value in (("target_modules", targets), ("exclude_modules", excluded or None)):
            if name in known:
                arguments.setdefault(name, value)
        if modules_to_save:
            arguments["modules_to_save"] = sorted({*modules_to_save, *(arguments.get("modules_to_save") or ())})
        return _built(self.peft_type, arguments)


def plain_name(method: str) -> str:
    return method.strip().lower().replace("-", "").replace("_", "")


def choose_method(config: TrainingConfig) -> TrainedMethod:
    """The method that `config` names. UnusableInput for one that is not known, cannot be trained or cannot be merged,
    and for arguments that it does not have. Imports peft."""
    name = plain_name(config.method)
    if name in PRESETS:
        return _lora(config, name)
    peft_type = _peft_types().get(name)
    if peft_type is None:
        known = [*PRESETS, *(known.lower() for known in _mergeable() if known not in ("LORA", *_UNTRAINABLE))]
        raise UnusableInput(
            f"--method {config.method} is not known{nearest(config.method.lower(), known)}.",
            hint=f"Methods: {', '.join(known)}",
        )
    if peft_type in _UNTRAINABLE:
        raise UnusableInput(
            f"{peft_type} cannot be trained here: {_UNTRAINABLE[peft_type]}.", hint="Take --method lora."
        )
    if config.lora != LoraSettings():
        raise UnusableInput(
            f"--lora.r, --lora.alpha and --lora.dropout are settings of LoRA; {peft_type} has arguments of its own.",
            hint=f"Pass them with --arguments; it has: {', '.join(_fields(peft_type))}",
        )
    _check_arguments(peft_type, config.arguments)
    arguments = dict(config.arguments)
    if peft_type == "IA3":  # which of the targets are feed-forward layers, whose input is scaled; none, by default
        arguments.setdefault("feedforward_modules", [])
    row = _row(peft_type, arguments)
    return TrainedMethod(
        row, peft_type, arguments, {name: str(value) for name, value in config.arguments.items()}, False
    )


def _lora(config: TrainingConfig, preset: str) -> TrainedMethod:
    lora, fixed = config.lora, PRESETS[preset]
    _check_arguments("LORA", config.arguments)
    ours = {"r": "lora.r", "lora_alpha": "lora.alpha", "lora_dropout": "lora.dropout"}
    for argument in config.arguments:
        if argument in ours:
            raise UnusableInput(f"--arguments names {argument}, which is --{ours[argument]}.")
        if argument in fixed:
            raise UnusableInput(f"--arguments names {argument}, which --method {preset} sets.")
    r, alpha = lora.r, lora.alpha
    assert r != "auto", "decided before"
    assert alpha != "auto", "decided before"
    arguments = {"r": r, "lora_alpha": alpha, "lora_dropout": lora.dropout, **fixed, **config.arguments}
    row = _row("LORA", arguments)
    start = arguments.get("init_lora_weights", True)
    converted = isinstance(start, str) and start.split("_")[0] in CONVERTED
    if converted and arguments.get("use_dora"):
        raise UnusableInput(f"DoRA does not go with the start {start}: what it makes of the base cannot be converted.")
    scale = alpha / (math.sqrt(r) if arguments.get("use_rslora") else r)
    return TrainedMethod(row, "LORA", arguments, {"r": r, "α": alpha, "scale": scale}, True, converted)


def _row(peft_type: str, arguments: Mapping[str, Any]) -> Method:
    """The row of the methods table; UnusableInput for an adapter that no merge could take."""
    config = _built(
        peft_type, {"target_modules": ["x"], **arguments} if "target_modules" in _fields(peft_type) else arguments
    )
    settings = config.to_dict()
    row = method_for({**settings, "peft_type": peft_type})
    # (PiSSA by a fast SVD is refused for what it does not save. We convert it before it is saved.)
    converted = str(settings.get("init_lora_weights")).split("_")[0] in CONVERTED
    if row.route == "refused" and not converted:
        raise UnusableInput(f"{row.name} could not be merged after training: {row.reason}", hint="Run: ingraft methods")
    return row


def _built(peft_type: str, arguments: Mapping[str, Any]) -> Any:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused in words, by us
            return config(task_type="FEATURE_EXTRACTION", **arguments)
    except (TypeError, ValueError, ImportError) as error:
        reason = first_line(error)
        raise UnusableInput(f"PEFT refuses the arguments of {peft_type}: {reason}") from None


def _check_arguments(peft_type: str, arguments: Mapping[str, Any]) -> None:
    known = _fields(peft_type)
    for argument in arguments:
        if argument == "target_modules":
            raise UnusableInput("--arguments names target_modules, which is --target-modules.")
        if argument not in known:
            raise UnusableInput(
                f"{peft_type} has no argument {argument}{nearest(argument, known)}.", hint=f"It has: {', '.join(known)}"
            )


def _fields(peft_type: str) -> list[str]:
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft_type)]
    return [field.name for field in dataclasses.fields(config) if field.init and field.name not in _OURS]


def _mergeable() -> list[str]:
    """Types with a row that is not refused, in the order of the table."""
    return list(dict.fromkeys(row.peft_type for row in METHODS if row.route != "refused"))


def _peft_types() -> dict[str, str]:
    """Name without case and punctuation → PEFT type."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING

    names = [str(peft_type.value) for peft_type in PEFT_TYPE_TO_CONFIG_MAPPING]
    return {name.lower().replace("_", ""): name for name in names}
