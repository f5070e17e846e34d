"""Super-Tuning: a trained number for each of the largest (or smallest) elements, optionally with LoRA."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowFormula = Callable[[Tensor, slice], Tensor]


def supertuning(
    supertuning_values: Tensor,
    supertuning_indices: Tensor,
    supertuning_lora_A: Tensor | None = None,
    supertuning_lora_B: Tensor | None = None,
    *,
    scale: float,
) -> RowFormula:
    """W' = W + values at flat indices, + s·B·A (arXiv:2607.09287).

    values, indices: [n], positions in the flattened [out, in]; A: [r, in], B: [out, r] ("Supra").
    """
    index = supertuning_indices.long()

    def rows(weight: Tensor, at: slice) -> Tensor:
        columns = weight.shape[1]
        here = (index >= at.start * columns) & (index < at.stop * columns)
        weight.view(-1).index_add_(0, index[here] - at.start * columns, supertuning_values[here])
        if supertuning_lora_A is not None and supertuning_lora_B is not None:
            weight.addmm_(supertuning_lora_B[at], supertuning_lora_A, alpha=scale)
        return weight

    return rows
