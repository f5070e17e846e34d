"""The `ingraft` command, and `python -m ingraft`."""

from __future__ import annotations

import sys

from ingraft import startup


def command() -> int:
    """Run this process's command line and return its exit code."""
    startup.OWN_PROCESS = True
    with startup.importing():
        from ingraft.cli.app import main
    return main()


if __name__ == "__main__":
    sys.exit(command())
