"""What `ingraft merge` takes that is no merge: the plan, and the import of torch. Arguments: BASE ADAPTER OUTPUT."""

from __future__ import annotations

import importlib
import sys

from ingraft.cli.app import main
from ingraft.startup import importing_torch

base, adapter, output = sys.argv[1:]
code = main(["merge", adapter, output, "--base", base, "--dry-run"])
with importing_torch():
    for name in ("ingraft.execute.edits", "ingraft.verification.weights"):
        importlib.import_module(name)
sys.exit(code)
