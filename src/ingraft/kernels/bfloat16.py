"""The kernels for bfloat16, which numpy does not know: its 16 bits (uint16).

`_bfloat16` is C, built with the package where there is a compiler; `in_numpy` has the same functions, with what they
promise, and is used where it was not.
"""

from __future__ import annotations

try:
    from ingraft.kernels import _bfloat16 as chosen
except ImportError:
    from ingraft.kernels import in_numpy as chosen  # type: ignore[no-redef]

__all__ = ["COMPILED", "chosen"]

COMPILED = chosen.__name__.endswith("._bfloat16")
