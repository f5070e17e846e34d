"""Forward passes of adapted layers, written out for one input x [in]: vectors through thin matrices, never W′ itself.

Each has two halves, before and after the base's weight: `before(x)` is what W is asked, and `after(x, y)` the layer's
answer without its bias, at some rows, where y = W·before(x) at these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from ingraft.kernels.buffers import Array
from ingraft.methods.method import Setting
from ingraft.steps import Edit

Tensors = Mapping[str, Array]
Settings = Mapping[str, Setting]


@dataclass(frozen=True)
class OwnForward:
    """What a method does to the input, to the answer of the base's weight, and to the base's bias; None: nothing."""

    before: Callable[[Tensors, Settings, Array], Array] | None = None
    after: Callable[[Tensors, Settings, Array, Array, slice], Array] | None = None
    bias: Callable[[Tensors, Settings, Array, slice], Array] | None = None


def own_forward(edit: Edit) -> OwnForward | None:
    """The forward of the edit's method, or None where it is not written out for this layer."""
    if "hada_t1" in edit.inputs or "lokr_t2" in edit.inputs:
        return None  # Tucker cores of convolutions
    if "lokr_w2" in edit.inputs and len(edit.inputs["lokr_w2"].shape) == 3:
        return None  # PEFT takes the factors of one-dimensional convolutions in another order
    return _FORWARDS.get(edit.formula)


def flat(array: Array) -> Array:
    """A convolution's kernel [out, in, k…] as a matrix [out, in·k]."""
    return array.reshape(len(array), -1)


def number(settings: Settings, name: str) -> float:
    value = settings[name]
    assert isinstance(value, (int, float))
    return value


def lora_added(t: Tensors, settings: Settings, x: Array, rows: slice) -> Array:
    """s·B·(A·x): what LoRA's branch adds."""
    a, b = flat(t["lora_A"]), flat(t["lora_B"])
    added: Array = b[rows] @ (a @ x)
    return added * number(settings, "scale")


def _lora(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    return y + lora_added(t, settings, x, rows)


def _lora_embedding(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    a, b = t["lora_embedding_A"], t["lora_embedding_B"]
    added: Array = a.T[rows] @ (b.T @ x)
    return y + added * number(settings, "scale")


def _lora_expert(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    """A holds the experts one after the other, B in turn."""
    expert, experts = int(number(settings, "expert")), int(number(settings, "experts"))
    a, b = flat(t["lora_A"]), flat(t["lora_B"])
    a, b = a.reshape(experts, -1, a.shape[1])[expert], b.reshape(len(b), -1, experts)[..., expert]
    added: Array = b[rows] @ (a @ x)
    return y + added * number(settings, "scale")


def _lora_bias(t: Tensors, settings: Settings, bias: Array, rows: slice) -> Array:
    return bias + t["lora_bias"][rows] * number(settings, "scale")


def _loha(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    """Row i of ((A₁·B₁) ∘ (A₂·B₂))·x is a₁ᵢ·(B₁·diag(x)·B₂ᵀ)·a₂ᵢ: only an [r, r] lies between input and output."""
    between = (t["hada_w1_b"] * x) @ t["hada_w2_b"].T
    added: Array = ((t["hada_w1_a"][rows] @ between) * t["hada_w2_a"][rows]).sum(1)
    return y + added * number(settings, "scale")


def _lokr(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    """(W₁ ⊗ W₂)·x is W₁·X·W₂ᵀ, x laid out as a matrix [i₁, i₂], and a factored W goes factor by factor."""
    first, second = _factors(t, "lokr_w1"), _factors(t, "lokr_w2")
    matrix = x.reshape(first[-1].shape[1], second[-1].shape[1])
    for factor in reversed(second):
        matrix = matrix @ factor.T
    for factor in reversed(first):
        matrix = factor @ matrix
    return y + matrix.flatten()[rows] * number(settings, "scale")


def _factors(t: Tensors, name: str) -> tuple[Array, ...]:
    """The matrices whose product the named one is, from the left; those of a convolution as [out, in·k·k]."""
    return (flat(t[name]),) if name in t else (t[f"{name}_a"], t[f"{name}_b"])


def _ia3_before(t: Tensors, settings: Settings, x: Array) -> Array:
    return x * t["ia3_l"].flatten() if settings["feedforward"] else x


def _ia3_after(t: Tensors, settings: Settings, x: Array, y: Array, rows: slice) -> Array:
    return _ia3_bias(t, settings, y, rows)


def _ia3_bias(t: Tensors, settings: Settings, bias: Array, rows: slice) -> Array:
    """The whole output is scaled, bias and all, unless the input was."""
    return bias if settings["feedforward"] else bias * t["ia3_l"].flatten()[rows]


def _oft(t: Tensors, settings: Settings, x: Array) -> Array:
    """Every block of b inputs turned by its R = (I − Q)·(I + Q)⁻¹ or the series; as a row, x·R, or for embeddings R·x.

    A row times a function of Q is the function of Qᵀ = −Q times the column. Q is skew-symmetric and saved as its upper
    triangle, b·(b − 1)/2 numbers; with `longest` (`coft`) it is at most that long.
    """
    embedding = "oft_embedding_R" in t
    triangles = t["oft_embedding_R" if embedding else "oft_R"]
    size = round((1 + (1 + 8 * triangles.shape[1]) ** 0.5) / 2)
    longest, terms = settings["longest"], settings["neumann_terms"]
    if longest is not None:
        # each number of a triangle stands in Q twice
        lengths = np.sqrt(2 * np.square(triangles).sum(1, keepdims=True))
        allowed = number(settings, "longest") / len(triangles) ** 0.5
        triangles = triangles * np.where(lengths > allowed, allowed / np.maximum(lengths, 1e-30), 1).astype(x.dtype)
    upper = np.zeros((len(triangles), size, size), triangles.dtype)
    row, column = np.triu_indices(size, 1)
    upper[:, row, column] = triangles
    lower = upper.transpose(0, 2, 1)
    skew = upper - lower if embedding else lower - upper
    blocks = x.reshape(-1, size, 1)
    if terms is None:
        turned: Array = np.linalg.solve(np.eye(size, dtype=x.dtype) + skew, blocks - skew @ blocks)
        return turned.flatten()
    turned, power = blocks, blocks
    for factor in _series(int(number(settings, "neumann_terms"))):
        power = skew @ power
        turned = turned + factor * power
    return turned.flatten()


def _series(terms: int) -> tuple[int, ...]:
    """The factors of Q, Q², … in PEFT's series of Cayley's formula; for three terms it takes four."""
    if terms < 3:
        return (2,) * (terms - 1)
    return (*(2,) * (max(terms, 4) - 2), 1)


_FORWARDS: Mapping[str, OwnForward] = {
    "lora:lora": OwnForward(after=_lora),
    "lora:lora_embedding": OwnForward(after=_lora_embedding),
    "lora:lora_expert": OwnForward(after=_lora_expert),
    "lora:lora_bias": OwnForward(bias=_lora_bias),
    "loha:loha": OwnForward(after=_loha),
    "lokr:lokr": OwnForward(after=_lokr),
    "ia3:ia3": OwnForward(before=_ia3_before, after=_ia3_after),
    "ia3:ia3_bias": OwnForward(bias=_ia3_bias),
    "oft:oft": OwnForward(before=_oft),
}
