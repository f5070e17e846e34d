"""How small may an error of one tensor be before the proof's probes miss it? Measured, and written into the docs.

One matrix of a merged model is made wrong in a known way, as a mistake before the rounding would make it:
round(W + ΔW + E) in place of round(W + ΔW). The smallest E that is found with every one of the seeds is searched for.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ingraft.execute import execute
from ingraft.plan import plan_merge
from ingraft.steps import MergePlan
from ingraft.verification.weights import verify_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDTHS = (384, 1024, 4096)
TARGET = "encoder.layer.0.attention.self.query"
NAME = f"{TARGET}.weight"
DELTA = 0.02  # ‖ΔW‖ / ‖W‖ of the adapter
RANK, SEEDS = 8, 10
DOCS = Path(__file__).resolve().parents[1] / "docs" / "verification.md"
BEGIN, END = "<!-- measured by benchmarks/detection.py -->", "<!-- /measured -->"

# Makes E of a relative size from W, ΔW, a generator and that size.
Mistake = Callable[[Tensor, Tensor, torch.Generator, float], Tensor]


def everywhere(weight: Tensor, delta: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """‖E‖ = size·‖W‖, spread over all elements."""
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return noise * (size * weight.norm() / noise.norm())


def scale(weight: Tensor, delta: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """A wrong scale: ‖E‖ = size·‖W‖, all of it along ΔW."""
    return delta * (size * weight.norm() / delta.norm())


def one_row(weight: Tensor, delta: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """‖E‖ = size·‖the row‖, in one row."""
    error, row = torch.zeros_like(weight), int(torch.randint(len(weight), (1,), generator=generator))
    noise = torch.randn(weight.shape[1], generator=generator, dtype=torch.float64)
    error[row] = noise * (size * weight[row].norm() / noise.norm())
    return error


def one_element(weight: Tensor, delta: Tensor, generator: torch.Generator, size: float) -> Tensor:
    """One element off by size times a typical one (the root of the mean square)."""
    error = torch.zeros_like(weight)
    at = [int(torch.randint(count, (1,), generator=generator)) for count in weight.shape]
    error[at[0], at[1]] = size * weight.square().mean().sqrt()
    return error


MISTAKES: dict[str, Mistake] = {
    "all elements": everywhere,
    "the scale": scale,
    "one row": one_row,
    "one element": one_element,
}


@dataclass(frozen=True)
class Merged:
    """A right merge of one matrix, and what it is made of."""

    plan: MergePlan
    folder: Path
    weight: Tensor
    delta: Tensor

    def found(self, mistake: Mistake, size: float, seed: int) -> bool:
        """Does the proof find the mistake?"""
        generator = torch.Generator().manual_seed(seed)
        exact = self.weight + self.delta + mistake(self.weight, self.delta, generator, size)
        file = self.folder / "model.safetensors"
        tensors = load_file(file)
        tensors[NAME] = exact.to(tensors[NAME].dtype)
        save_file(tensors, file, metadata={"format": "pt"})
        return not all(check.passed for check in verify_weights(self.plan, self.folder, workers=1))


def merged(root: Path, width: int, dtype: torch.dtype) -> Merged:
    """A base of one square matrix, a LoRA on it, and the two merged, below `root`."""
    generator = torch.Generator().manual_seed(width)
    base, adapter, out = root / "base", root / "adapter", root / "out"
    for folder in (base, adapter, out):
        folder.mkdir(parents=True)
    weight = (torch.randn(width, width, generator=generator) / width**0.5).to(dtype)
    a, b = torch.randn(RANK, width, generator=generator), torch.randn(width, RANK, generator=generator)
    delta = b.double() @ a.double()
    b *= float(DELTA * weight.double().norm() / delta.norm())
    save_file({NAME: weight}, base / "model.safetensors", metadata={"format": "pt"})
    (base / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    key = f"base_model.model.{TARGET}"
    save_file({f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["query"]}
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    plan = plan_merge(adapter)
    execute(plan, out)
    assert all(check.passed for check in verify_weights(plan, out))
    return Merged(plan, out, weight.double(), b.double() @ a.double())


def smallest(made: Merged, mistake: Mistake) -> float:
    """The smallest size, to a tenth, that is found with every seed."""
    low, high = 1e-9, 1e-9
    while not all(made.found(mistake, high, seed) for seed in range(SEEDS)):
        low, high = high, high * 10
    while high / low > 1.1:
        middle = (low * high) ** 0.5
        if all(made.found(mistake, middle, seed) for seed in range(SEEDS)):
            high = middle
        else:
            low = middle
    return high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--write", action="store_true", help=f"write the table into {DOCS.name}")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "| stored as | matrix | " + " | ".join(MISTAKES) + " |",
        "| --- | ---: | " + " | ".join("---:" for _ in MISTAKES) + " |",
    ]
    for name, dtype in DTYPES.items():
        for width in chosen.widths:
            with tempfile.TemporaryDirectory() as folder:
                made = merged(Path(folder), width, dtype)
                sizes = [smallest(made, mistake) for mistake in MISTAKES.values()]
            lines.append(f"| {name} | {width}² | " + " | ".join(f"{size:.1e}" for size in sizes) + " |")
            print(lines[-1], file=sys.stderr)
    print("\n".join(lines))
    if chosen.write:
        text = DOCS.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        table = "\n".join(lines)
        DOCS.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
