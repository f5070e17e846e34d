"""What `ingraft merge` takes that is no merge: the plan, and imports. Arguments: BASE ADAPTER OUTPUT."""

from __future__ import annotations

import importlib
import sys

from ingraft import startup

startup.OWN_PROCESS = True  # as the command does
with startup.importing():
    from ingraft.cli.app import main

base, adapter, output = sys.argv[1:]
code = main(["merge", adapter, output, "--base", base, "--dry-run"])
for name in ("threadpoolctl", "ingraft.execute.edits", "ingraft.verification.weights"):
    importlib.import_module(name)
sys.exit(code)
