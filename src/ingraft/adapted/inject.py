"""Put an adapter on a module through PEFT's own layers, and prove that every tensor arrived where it belongs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ingraft.adapted.keys import unwrapped
from ingraft.adapted.quiet import quiet
from ingraft.errors import UnusableInput

ADAPTER = "default"
# What comes back from PEFT may have gone through a softmax (VB-LoRA's saved top-k weights).
TOLERANCE = 1e-5


def inject(model: nn.Module, config: Any, state: Mapping[str, Tensor], *, who: str, only: str = "") -> nn.Module:
    """Adapt `model` in place and return PEFT's wrapper of it, in eval mode, all of `state` loaded.

    state  in the format of an adapter file, by the names that `model` has
    who    the adapter, for messages
    only   the one module that `state` is for, where `model` has companions that it needs
    Raises UnusableInput with the names when PEFT refuses, leaves a tensor out, or misses one.
    """
    from peft import PeftModel, set_peft_model_state_dict

    targets = set(config.target_modules) if not isinstance(config.target_modules, str) else set()
    parameters = set(getattr(config, "target_parameters", None) or ())
    with quiet(), _names_as_they_are(model), told(who):
        peft_model = PeftModel(model, config, adapter_name=ADAPTER)
        tuner: Any = peft_model.base_model
        _check_targets(targets, set(getattr(tuner, "targeted_module_names", targets)), who)
        _check_targets(parameters, set(getattr(tuner, "targeted_parameter_names", parameters)), who)
        loaded: Any = set_peft_model_state_dict(peft_model, dict(state), adapter_name=ADAPTER)
    if loaded.unexpected_keys:
        raise UnusableInput(f"{who}: PEFT has no place for {_some(loaded.unexpected_keys)}.")
    _check_arrived(peft_model, config, state, who, only)
    peft_model.eval()
    return peft_model


@contextlib.contextmanager
def _names_as_they_are(model: nn.Module) -> Iterator[None]:
    """PEFT renames adapter tensors by the model type, for adapters made before transformers 5. Ours fit already."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "model_type"):
        yield
        return
    own = config.__dict__.get("model_type")
    config.model_type = "named-exactly"
    try:
        yield
    finally:
        if own is None:
            del config.__dict__["model_type"]
        else:
            config.model_type = own


@contextlib.contextmanager
def told(who: str, doing: str = "load") -> Iterator[None]:
    """What PEFT raises over the adapter `who`, in one line: its layers find out late what a config lacks."""
    try:
        yield
    except UnusableInput:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        what = f"no tensor {error.args[0]}" if isinstance(error, KeyError) and error.args else " ".join(lines[:2])
        raise UnusableInput(
            f"{who}: PEFT cannot {doing} it: {what}", hint="The adapter or the base is another."
        ) from None


def _check_targets(wanted: set[str], found: set[str], who: str) -> None:
    if found != wanted and wanted:
        differing = sorted(wanted ^ found)
        raise UnusableInput(f"{who}: PEFT adapts other modules than the file is for, such as {differing[0]}.")


def _check_arrived(peft_model: nn.Module, config: Any, state: Mapping[str, Tensor], who: str, only: str) -> None:
    """Every number of `state` stands in the live model, and the live model waits for none that `state` lacks."""
    from peft import get_peft_model_state_dict

    full = peft_model.state_dict()
    with quiet(), told(who):
        saved = get_peft_model_state_dict(
            peft_model, state_dict=full, adapter_name=ADAPTER, save_embedding_layers=False
        )
    differing = [key for key, value in state.items() if not _same(saved.get(key, full.get(key)), value)]
    if differing:
        raise UnusableInput(f"{who}: PEFT dropped {_some(differing)} while loading.")
    missing = [key for key in saved if key not in state and not key.endswith(".bias")]
    if only:
        prefix = f"base_model.model.{only}."
        missing = [key for key in missing if key.startswith(prefix) or not key.startswith("base_model.model.")]
    if missing:
        raise UnusableInput(
            f"{who} has no tensor {_some(missing)}, which its config asks for.",
            hint="The file is incomplete; save the adapter again.",
        )


def _same(live: Tensor | None, value: Tensor) -> bool:
    if live is None or live.shape != value.shape:
        return False
    value = value.to(live.dtype)
    if torch.equal(live, value):
        return True
    return live.is_floating_point() and torch.allclose(live, value, rtol=TOLERANCE, atol=TOLERANCE)


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(unwrapped(name) for name in names)[:3])
    return f"{shown} (and {len(names) - 3} more)" if len(names) > 3 else shown
