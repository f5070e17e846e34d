"""What the demo can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DemoConfig:
    """Where the demo works, and on how much."""

    output: Path = Path("ingraft-demo")
    """Directory for the base model's copy, the data, the adapter and the merged model."""

    pairs: int = 1_500
    """Pairs to train on: another name of a diagnosis in ICD-10-CM, and its title."""

    seed: int = 0
    """Seed of the data's split and of the training."""

    overwrite: bool = False
    """Replace what an earlier demo left in the output directory."""
