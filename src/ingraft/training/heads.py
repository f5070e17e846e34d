"""Heads that the base's file does not hold: their start is random, so an adapter without them would be useless."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ingraft.checkpoint import open_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def fresh_heads(transformer: PreTrainedModel, folder: Path) -> tuple[str, ...]:
    """Names of the modules beside the transformer's trunk of which no parameter is in the weights of `folder`."""
    trunk = transformer.base_model
    if trunk is transformer:
        return ()
    stored = open_checkpoint(folder).tensors
    fresh = []
    for name, module in transformer.named_children():
        parameters = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        if module is not trunk and parameters and not any(parameter in stored for parameter in parameters):
            fresh.append(name)
    return tuple(fresh)
