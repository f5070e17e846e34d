"""The folder that the benchmarks work in: bases and adapters, built once, and one output that every run replaces."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
_SPARE_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Workplace:
    root: Path

    @property
    def output(self) -> Path:
        return self.root / "output"

    def base(self, name: str) -> Path:
        return self.root / "bases" / name

    def adapter(self, name: str, kind: str | int) -> Path:
        """`kind` is a LoRA's rank or another method's name."""
        return self.root / "adapters" / (f"{name}-r{kind}" if isinstance(kind, int) else f"{name}-{kind}")

    def build(self, name: str, kind: str | int, nbytes: int) -> None:
        """Build base and adapter, if they are not there, in a process of its own: this one must stay small."""
        if self.base(name).is_dir() and self.adapter(name, kind).is_dir():
            return
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        needed = nbytes * (1 if self.base(name).is_dir() else 2) + _SPARE_BYTES
        if free < needed:
            raise SystemExit(
                f"{self.root} has {free / 1e9:.0f} GB free, {name} takes {needed / 1e9:.0f} GB. "
                "Name another place with --dir."
            )
        print(f"building {name}, {kind if isinstance(kind, str) else f'rank {kind}'}", file=sys.stderr)
        subprocess.run([sys.executable, str(HERE / "models.py"), name, str(kind), str(self.root)], check=True)

    def weights(self, name: str) -> list[Path]:
        return sorted(self.base(name).glob("*.safetensors"))


def options(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    here = Path(tempfile.gettempdir()) / "ingraft-benchmarks"
    parser.add_argument("--dir", type=Path, default=here, help="where models are built and merged; they are kept there")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every contender")
    parser.add_argument("--cold", action="store_true", help="evict the base from the page cache before every run")
    parser.add_argument(
        "--tries",
        type=int,
        default=1,
        help="wait for a quiet machine, and repeat a disturbed run until so many were made",
    )
    parser.add_argument("--no-save", action="store_true", help="print the table and leave the results as they are")
    return parser
