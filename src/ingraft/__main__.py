"""`python -m ingraft` is the `ingraft` command."""

from __future__ import annotations

import sys

from ingraft.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
