"""What a merge and its proof do to every bfloat16: one pass over contiguous arrays, outside of the GIL.

bfloat16, which numpy does not know, is its 16 bits (uint16). `_bfloat16` is C, built with the package where there is a
compiler; `in_numpy` has the same functions, with what they promise, and is used where it was not.
"""

from __future__ import annotations

try:
    from ingraft.kernels import _bfloat16 as chosen
except ImportError:
    from ingraft.kernels import in_numpy as chosen  # type: ignore[no-redef]

COMPILED = chosen.__name__.endswith("._bfloat16")
