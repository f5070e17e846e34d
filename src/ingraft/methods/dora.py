"""DoRA: LoRA for the direction, a trained vector for the length."""

from __future__ import annotations

from ingraft.methods.arrays import Array, RowFormula, flat


def dora(lora_A: Array, lora_B: Array, lora_magnitude_vector: Array, *, scale: float) -> RowFormula:
    """W' = m ∘ V / ‖V‖ with V = W + s·B·A, by rows (Liu et al. 2024, arXiv:2402.09353).

    A: [r, in], B: [out, r], m: [out]; of a convolution [r, in, k…], [out, r, 1…], [1, out, 1…].
    """
    left, right, length = flat(lora_B) * scale, flat(lora_A), lora_magnitude_vector.flatten()

    def rows(weight: Array, at: slice) -> Array:
        weight += left[at] @ right
        weight *= (length[at] / (weight * weight).sum(1) ** 0.5)[:, None]
        return weight

    return rows
