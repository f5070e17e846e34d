"""What an adapted layer answers to an input: its forward pass, W·x and what the adapter adds on the way.

LoRA's forward is two small products and is written out here. Every other method is asked through PEFT's own layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.steps import REPLACE, Edit, MergePlan
from ingraft.verification.read import load_whole


@dataclass(frozen=True)
class Truth:
    files: OpenFiles

    def tensor(self, info: TensorInfo) -> Tensor:
        return load_whole(self.files, info).float()

    def added(self, edit: Edit, x: Tensor) -> Tensor:
        """What the adapter's branch adds to W·x for input `x` [in], at the rows of the edit: s·B·(A·x)."""
        scale = float(edit.settings["scale"])  # type: ignore[arg-type]
        rows = slice(*edit.rows)
        if edit.kind == "embedding":
            a, b = self.tensor(edit.inputs["lora_embedding_A"]), self.tensor(edit.inputs["lora_embedding_B"])
            return a.T[rows] @ (b.T @ x) * scale
        a, b = self.tensor(edit.inputs["lora_A"]), self.tensor(edit.inputs["lora_B"])
        return b.flatten(1)[rows] @ (a.flatten(1) @ x) * scale


def has_own_forward(edit: Edit) -> bool:
    """Is the edit's forward written out here?"""
    return edit.formula in ("lora:lora", "lora:lora_embedding", "lora:lora_bias", REPLACE)


@contextmanager
def open_truth(plan: MergePlan) -> Iterator[Truth]:
    with open_files() as files:
        yield Truth(files)


def rademacher_free_probe(width: int, seed: int) -> Tensor:
    """A random input [width]: normal, so that no two columns can be exchanged unseen."""
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))
