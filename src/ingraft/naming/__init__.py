"""Adapter module names → checkpoint tensor names; the one place that knows prefixes, fusing and tying.

Two steps: by the names alone (`direct`), and where they do not settle it by the class that loads the model (`meta`).
"""

from ingraft.naming.find import find_names
from ingraft.naming.names import Names, Region

__all__ = ["Names", "Region", "find_names"]
