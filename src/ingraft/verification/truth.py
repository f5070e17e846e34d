"""What an adapted layer answers to an input: its forward pass, W·x and what the adapter adds on the way.

Where a forward is a few small products it is written out (`forwards`), and DoRA's, which needs the lengths of rows
besides. Every other method is asked through PEFT's own layer: for a streamed merge layer by layer, for one in memory in
the whole adapted model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from ingraft.adapter import open_adapter
from ingraft.checkpoint import TensorInfo, dtype_name
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.kernels.buffers import Array
from ingraft.steps import IN_MEMORY, REPLACE, ZERO, Edit, MergePlan, MergeStep
from ingraft.verification.forwards import flat, lora_added, number, own_forward
from ingraft.verification.read import load_whole

Forward = Callable[[Any], Any]  # of PEFT's layer, tensors to tensors
RowBlocks = Callable[[], Iterator[tuple[slice, Array]]]
# PEFT takes a part out of the base when it loads these, and rounds what remains to the base's dtype.
_ROUND_THE_BASE = ("pissa:pissa", "pissa:olora", "pissa:kasa", "osf:osf")
# Plain sums, in the merge as in the forward.
_SUMS = ("lora:lora", "lora:lora_embedding", "lora:lora_expert", "lora:lora_bias")
# Which are the adapter's own numbers, compared as such and not asked for an answer.
_NUMBERS = (REPLACE, ZERO, "tokens:trainable_tokens")


def asks_peft(edit: Edit) -> bool:
    """Is the answer to be had from PEFT's own layer only?"""
    return not (edit.formula in _NUMBERS or _is_dora(edit) or own_forward(edit))


def _is_dora(edit: Edit) -> bool:
    """DoRA on a layer whose rows lie one after the other."""
    return edit.formula == "dora:dora" and not edit.transposed


@contextmanager
def open_truth(plan: MergePlan) -> Iterator[Truth]:
    with open_files() as files:
        truth = Truth(plan, files)
        if any(edit.formula == IN_MEMORY for edit in plan.edits()):
            truth.load()
        yield truth


class Truth:
    """Answers of the adapted layers of one merge. Safe to share between threads."""

    def __init__(self, plan: MergePlan, files: OpenFiles) -> None:
        self._plan, self._files = plan, files
        self._lock = threading.Lock()
        self._kept: tuple[tuple[str, str], tuple[Any, Forward]] | None = None

    def noise(self, edit: Edit) -> float:
        """How much more the float32 arithmetic of this answer may lose than plain sums: inverses, decompositions."""
        return 1.0 if edit.formula in _SUMS else 16.0

    def tensor(self, info: TensorInfo) -> Array:
        """An adapter tensor in float32."""
        return load_whole(self._files, info)

    def _tensors(self, edit: Edit) -> dict[str, Array]:
        return {name: self.tensor(info) for name, info in edit.inputs.items()}

    def asked(self, edit: Edit, x: Array) -> Array:
        """What the adapted layer asks its base's weight when it is asked x. [in]"""
        own = own_forward(edit)
        return own.before(self._tensors(edit), edit.settings, x) if own and own.before else x

    def answer(self, edit: Edit, x: Array, base: Array, weight: RowBlocks) -> Array:
        """W′·x of the adapted layer without its bias, at the rows of `edit`; `base` is W·asked(x) there. x: [in].

        weight  the rows of W in float32, in blocks; a row's number counts from the first one of `edit`
        """
        rows = slice(*edit.rows)
        if own := own_forward(edit):
            return own.after(self._tensors(edit), edit.settings, x, base, rows) if own.after else base
        if _is_dora(edit):
            tensors = self._tensors(edit)
            magnitude = tensors["lora_magnitude_vector"].flatten()[rows]
            return (base + lora_added(tensors, edit.settings, x, rows)) * (magnitude / _lengths(edit, tensors, weight))
        import torch

        with self._lock:
            layer, forward = self._layer(edit)
            asked = torch.from_numpy(x).to(layer.weight.dtype)
            if edit.kind == "embedding":
                pieces = [forward(ids) @ asked for ids in torch.split(torch.arange(edit.shape[0]), 8192)]
                return _float32(torch.cat(pieces)[rows])
            both = forward(torch.stack([asked, torch.zeros_like(asked)]))
        return _float32((both[0] - both[1])[rows])

    def bias(self, edit: Edit, base: Array) -> Array:
        """The adapted layer's bias, its answer to nothing, at the rows of `edit`; `base` is the base's bias there."""
        rows = slice(*edit.rows)
        if own := own_forward(edit):
            return own.bias(self._tensors(edit), edit.settings, base, rows) if own.bias else base
        import torch

        with self._lock:
            layer, forward = self._layer(edit)
            width = layer.weight.shape[0] if edit.kind == "conv1d" else layer.weight[0].numel()
            return _float32(forward(torch.zeros(1, width, dtype=layer.weight.dtype))[0][rows])

    def _layer(self, edit: Edit) -> tuple[Any, Forward]:
        """(base layer, forward of tensors) of the edit's module; the last one asked for is kept."""
        key = (edit.target, edit.parameter.rsplit(".", 1)[0])
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._live_layer(edit) if edit.formula == IN_MEMORY else self._alone(edit))
        return self._kept[1]

    def _alone(self, edit: Edit) -> tuple[Any, Forward]:
        """The layer made of the base's numbers and this module's adapter tensors."""
        import torch

        from ingraft.adapted.layer import BaseLayer, adapted_layer, forward_of

        weight, bias = (None if part is None else torch.from_numpy(part) for part in self._base_numbers(edit))
        assert weight is not None
        layer = BaseLayer(edit.kind, weight, bias)
        begin = layer
        if edit.formula in _ROUND_THE_BASE:
            source = self._edits[(edit.target, "weight")][0][0].source
            assert source is not None
            stored = getattr(torch, dtype_name(source.dtype))
            begin = BaseLayer(edit.kind, weight.to(stored), None if bias is None else bias.to(stored))
        folder = next(iter(edit.inputs.values())).file.parent
        adapted = adapted_layer(open_adapter(folder), edit.target, begin, shapes=self._shapes).float()
        return layer, forward_of(adapted, layer)

    def _live_layer(self, edit: Edit) -> tuple[Any, Forward]:
        from ingraft.adapted.layer import BaseLayer, forward_of

        module = self._live.get_submodule(edit.parameter.rsplit(".", 1)[0])
        base = module.get_base_layer()
        layer = BaseLayer(edit.kind, base.weight, getattr(base, "bias", None))
        return layer, forward_of(module, layer)

    def load(self) -> None:
        """Load the whole adapted model now, on the thread that the merge loaded it on.

        Another thread has its own number of OpenMP threads, with which an ill-conditioned start (FRoD solves for its
        basis) comes out differently by more than rounding.
        """
        _ = self._live

    @cached_property
    def _live(self) -> Any:
        """The whole adapted model, for methods that need all of it."""
        from ingraft.adapted.exact import load_exact

        return load_exact(self._plan)

    @cached_property
    def _edits(self) -> dict[tuple[str, str], list[tuple[MergeStep, Edit]]]:
        """Edits and their steps by (module, part)."""
        found: dict[tuple[str, str], list[tuple[MergeStep, Edit]]] = {}
        for step in self._plan.steps():
            for edit in step.edits:
                if edit.formula in (REPLACE, ZERO):
                    continue
                found.setdefault((edit.target, edit.part), []).append((step, edit))
        return found

    @cached_property
    def _shapes(self) -> dict[str, Any]:
        """Kind and weight shape of every adapted module, as the running model has them."""
        shapes = {}
        for (module, part), pairs in self._edits.items():
            step, edit = pairs[0]
            if part == "weight":
                shapes[module] = (edit.kind, _running_shape(step, edit))
        return shapes

    def _base_numbers(self, edit: Edit) -> tuple[Array, Array | None]:
        """Weight (as the running model has it) and bias of the base, put together from where they are stored."""
        pairs = self._edits.get((edit.target, "weight"), [])
        same = [(step, other) for step, other in pairs if other.formula == edit.formula or edit.part == "bias"]
        if not same:  # the method changes biases only: any weight of the right shape will do
            return np.zeros((edit.shape[0], 1), np.float32), self._joined(self._edits[(edit.target, "bias")]).flatten()
        weight = self._joined(same).reshape(_running_shape(*same[0]))
        biases = self._edits.get((edit.target, "bias"))
        return weight, self._joined(biases).flatten() if biases else None

    def _joined(self, pairs: list[tuple[MergeStep, Edit]]) -> Array:
        parts = []
        for step, edit in sorted(pairs, key=lambda pair: pair[1].rows):
            assert step.source is not None
            flat = load_whole(self._files, step.source).reshape(-1)[slice(*edit.elements)]
            parts.append(flat if len(pairs) == 1 else flat.reshape(edit.rows[1] - edit.rows[0], -1))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _float32(answer: Any) -> Array:
    """A tensor of PEFT's as an array."""
    found: Array = answer.detach().float().numpy()
    return found


def _lengths(edit: Edit, tensors: Mapping[str, Array], weight: RowBlocks) -> Array:
    """‖w + s·bA‖ of every row, as ‖w‖² + 2s·b·(A·w) + s²·b·AAᵀ·b: the sum itself is what is to be proven."""
    a, b = flat(tensors["lora_A"]), flat(tensors["lora_B"])
    b = b[slice(*edit.rows)] * number(edit.settings, "scale")
    squares: Array = ((b @ (a @ a.T)) * b).sum(1)
    for rows, block in weight():
        squares[rows] += 2 * (b[rows] * (block @ a.T)).sum(1) + np.einsum("ij,ij->i", block, block)
    lengths: Array = np.sqrt(squares)
    return lengths


def _running_shape(step: MergeStep, edit: Edit) -> tuple[int, ...]:
    if edit.kind == "conv1d":
        return (edit.shape[1], edit.shape[0])
    return step.shape if edit.kind == "conv" else edit.shape


def random_input(width: int, seed: int) -> Array:
    """A random input [width], its numbers ±½ to ±3/2: no column counts for little, no two can be exchanged unseen."""
    numbers = np.random.default_rng(seed).uniform(-1, 1, width)
    return (numbers + np.copysign(0.5, numbers)).astype(np.float32)
