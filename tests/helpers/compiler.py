"""Could the kernels be compiled where the tests run? Then they must be there: a build leaves out what it cannot."""

from __future__ import annotations

import importlib
import shlex
import shutil
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest


def compiled(name: str) -> ModuleType:
    """A compiled module of ingraft.kernels; the test is skipped where there is no compiler or no Python.h."""
    try:
        return importlib.import_module(f"ingraft.kernels.{name}")
    except ImportError:
        compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
        header = Path(sysconfig.get_path("include")) / "Python.h"
        if shutil.which(compiler) and header.is_file():
            raise
        pytest.skip(f"{name} needs {compiler} and {header} to be compiled")
