"""How a run is made to fit into the memory found: bfloat16, cached losses, activation checkpointing. Knows no torch.

Bytes are estimated from the shape of the model and the longest texts. What they are held against is measured:
docs/training.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ingraft.files import human_bytes

# What is left alone of the free memory: other programs, evaluations, what an estimate does not know.
_SHARE = 0.8
# Gradient, two moments of Adam and the start that the end is compared with, beside the weight itself, all float32.
_ADAPTER_BYTES = 20
# Of a float32 step, under bfloat16 autocast: norms, softmax and what is dropped stay float32.
_HALF = 0.8
# Fewer rows at a time leave the processor idle: then activations are computed a second time instead.
_FEWEST_ROWS = 8


@dataclass(frozen=True)
class ModelShape:
    """What the size of activations depends on.

    attention, key_values  heads × their size: of the queries, of the keys
    gated                  a feed-forward part of three matrices and norms of queries and keys, as decoders have it
    adapted                inputs of the adapted layers, of all of them together
    dropout                what remembers each number that may be dropped, in numbers; 0 without dropout
    adapter_dropout        the same, in front of the adapter's matrices
    scores                 copies of each head's matrix of scores that are kept; 0 where a fused kernel keeps none
    outputs                numbers per token of a head over the vocabulary; 0 without one
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    attention: int
    key_values: int
    gated: bool
    adapted: int
    dropout: float
    adapter_dropout: float
    scores: int
    outputs: int = 0

    def numbers(self, length: int, *, checkpointing: bool = False) -> float:
        """Numbers that are kept for the backward pass, per token of a text of `length` tokens."""
        feed_forward = 3 * self.inner + self.attention + self.key_values if self.gated else self.inner
        kept: float = 2 * self.hidden + 2 * self.attention + 2 * self.key_values + feed_forward
        kept += 2 * self.dropout * self.hidden + self.scores * self.heads * length
        # (The input of an adapted layer is there as it is, or once more as the dropout leaves it.)
        inside = self.layers * kept + self.adapted * (1 + self.adapter_dropout)
        if checkpointing:
            # One layer is computed again while the gradients of the next are still there.
            inside = self.layers * self.hidden + 2 * inside / max(1, self.layers)
        return inside + 3 * self.outputs


@dataclass(frozen=True)
class TextLengths:
    """A data set as a batch sees it: tokens of the longest text of each column that is embedded by itself.

    copies     how often a row of it goes through the model, such as with each of a reranker's wrong answers
    cached     the form of its loss that embeds a few rows at a time, where it has one that may be taken
    at_a_time  rows that its loss embeds at a time if nothing else is said; None for all
    """

    tokens: tuple[int, ...]
    copies: int = 1
    cached: str | None = None
    at_a_time: int | None = None


@dataclass(frozen=True)
class Footprint:
    """What a run needs. `weights`: bytes of the base as it is loaded; `trainable`: parameters; `rows`: of a process."""

    weights: int
    trainable: int
    shape: ModelShape
    rows: int
    data: tuple[TextLengths, ...]

    @property
    def adapter(self) -> int:
        return _ADAPTER_BYTES * self.trainable


@dataclass(frozen=True)
class Device:
    """What a run finds. `free`: bytes, None where nobody says; `overhead`: bytes taken for each byte asked for."""

    name: str
    free: int | None
    bf16: bool = False
    overhead: float = 1.0


@dataclass(frozen=True)
class Asked:
    """Settings that were set; None is left to choose. A `mini_batch_size` of 0 is the whole batch at once."""

    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    mini_batch_size: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """What was found (bytes), what was estimated (bytes), what was chosen, and why.

    activations      of the whole batch at once, as if nothing were chosen
    needed           in all, with what was chosen
    mini_batch_size  rows embedded at a time, None for all of them
    tokens           of the longest text of each column, by data set
    """

    device: str
    free: int | None
    usable: int | None
    rows: int
    tokens: tuple[tuple[int, ...], ...]
    weights: int
    adapter: int
    activations: int
    needed: int
    bf16: bool
    gradient_checkpointing: bool
    mini_batch_size: int | None
    reason: str


@dataclass(frozen=True)
class _Way:
    bf16: bool
    checkpointing: bool
    mini_batch: int | None


def choose(device: Device, need: Footprint, asked: Asked) -> MemoryPlan:
    """The first way, from the plainest to the thriftiest, that fits; the thriftiest where none does.

    The plainest computes as if memory were no matter. bfloat16 comes first, on a device that computes in it; then
    losses that embed fewer rows at a time; then activations that are computed twice. What was asked for is kept.
    """
    usable = None if device.free is None else int(_SHARE * device.free)
    ways = list(_ways(device, need, asked))
    plainest = bytes_needed(device, need, ways[0])
    fitting = (way for way in ways if usable is None or bytes_needed(device, need, way) <= usable)
    thriftiest = min(ways, key=lambda way: bytes_needed(device, need, way))
    chosen = next(fitting, None)
    way = chosen or thriftiest
    if usable is None:
        reason = f"how much of {device.name} is free is not known"
    elif way == ways[0] and chosen:
        reason = "that fits"
    else:
        reason = f"{human_bytes(plainest)} without that, {human_bytes(usable)} may be used"
        if chosen is None:
            reason = f"{human_bytes(usable)} may be used, so it may not fit: lower --batch-size, or cut the texts"
    return MemoryPlan(
        device=device.name,
        free=device.free,
        usable=usable,
        rows=need.rows,
        tokens=tuple(lengths.tokens for lengths in need.data),
        weights=need.weights,
        adapter=need.adapter,
        activations=int(_activations(device, need, _Way(False, False, None))),
        needed=bytes_needed(device, need, way),
        bf16=way.bf16,
        gradient_checkpointing=way.checkpointing,
        mini_batch_size=way.mini_batch,
        reason=reason,
    )


def bytes_needed(device: Device, need: Footprint, way: _Way) -> int:
    # Each frozen matrix is kept a second time as bfloat16, for the backward pass.
    copies = need.weights // 2 if way.bf16 else 0
    return int(need.weights + copies + need.adapter + _activations(device, need, way))


def _activations(device: Device, need: Footprint, way: _Way) -> float:
    """Bytes of the data set that needs the most."""
    width = 4 * device.overhead * (_HALF if way.bf16 else 1)
    return max((width * _numbers(need, lengths, way) for lengths in need.data), default=0)


def _numbers(need: Footprint, lengths: TextLengths, way: _Way) -> float:
    per_column = [
        lengths.copies * length * need.shape.numbers(length, checkpointing=way.checkpointing)
        for length in lengths.tokens
    ]
    pairs = need.rows * need.rows * max(1, len(lengths.tokens) - 1) * 3  # similarities, their softmax, its gradient
    at_a_time = way.mini_batch if way.mini_batch and lengths.cached else lengths.at_a_time
    if at_a_time is not None:
        # One column at a time, and of every row its embedding.
        embeddings = 2 * need.rows * len(lengths.tokens) * need.shape.hidden
        return min(at_a_time, need.rows) * max(per_column, default=0) + embeddings + pairs
    return need.rows * sum(per_column) + pairs


def _ways(device: Device, need: Footprint, asked: Asked) -> Iterator[_Way]:
    halves = (asked.bf16,) if asked.bf16 is not None else (False, True) if device.bf16 else (False,)
    twice = (asked.gradient_checkpointing,) if asked.gradient_checkpointing is not None else (False, True)
    cached = any(lengths.cached for lengths in need.data)
    for checkpointing in twice:
        # (That bfloat16 needs less is no matter of course: a large base is then kept one and a half times.)
        sizes: list[int | None] = [None]
        if asked.mini_batch_size is not None:
            sizes = [asked.mini_batch_size or None]
        elif cached:
            fewest = 1 if checkpointing == twice[-1] else _FEWEST_ROWS
            sizes += [size for size in _powers_below(need.rows) if size >= fewest]
        for size in sizes:
            first = size is None and not checkpointing
            yield from (_Way(half, checkpointing, size) for half in (halves if first else reversed(halves)))


def _powers_below(rows: int) -> list[int]:
    """Powers of two less than `rows`, from the largest down."""
    return [2**n for n in reversed(range((max(rows, 1) - 1).bit_length()))]
