"""Writes the output of `ingraft methods --format markdown` between the markers of the READMEs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- methods: written by `make readme` -->"
END = "<!-- /methods -->"


def main() -> None:
    command = [sys.executable, "-m", "ingraft", "methods", "--format", "markdown"]
    table = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    for path in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
        block = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
        text, found = block.subn(lambda _: f"{BEGIN}\n\n{table}\n{END}", path.read_text("utf-8"))
        if found != 1:
            sys.exit(f"{path.name}: expected one pair of markers {BEGIN} … {END}, found {found}")
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
