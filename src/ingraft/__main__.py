"""The `ingraft` command, and `python -m ingraft`."""

from __future__ import annotations

import sys

from ingraft.startup import importing


def command() -> int:
    """Run this process's command line and return its exit code."""
    with importing():
        from ingraft.cli.app import main
    return main()


if __name__ == "__main__":
    sys.exit(command())
