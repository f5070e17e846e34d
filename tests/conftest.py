"""Tests run offline, quietly, with a Hugging Face cache of their own, and leave cores to their neighbours.

Set in the environment, before any library is imported, so that processes started by tests inherit it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

_CACHE = tempfile.mkdtemp(prefix="ingraft-tests-hf-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

os.environ |= {
    # offline, and blind to what this machine happens to have cached
    "HF_HOME": _CACHE,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # quiet
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    # torch: one thread per process; the tests run in parallel
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # the CLI: plain text of a fixed width, whatever terminal or CI this is
    "NO_COLOR": "1",
    "COLUMNS": "120",
}
for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "INGRAFT_DEBUG", "HF_TOKEN", "HF_HUB_CACHE"):
    os.environ.pop(_name, None)
