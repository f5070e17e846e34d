"""An adapter trained over a quantised base: which weights it is merged into, the original or the dequantised ones.

The choice is made while planning (`choice`). Dequantised weights are a plain checkpoint in a temporary directory
(`scratch`), planned from headers (`packed`, `converted`) and written when the plan is run (`write`, `arithmetic`).
"""

from ingraft.base_precision.choice import BasePrecision, ChosenBase, at_precision
from ingraft.base_precision.dequantised import Dequantised, dequantised_weights

__all__ = ["BasePrecision", "ChosenBase", "Dequantised", "at_precision", "dequantised_weights"]
