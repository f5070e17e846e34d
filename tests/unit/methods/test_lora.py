"""LoRA's formulas on numbers that can be followed by hand."""

from __future__ import annotations

import torch

from ingraft.methods.lora import lora, lora_bias, lora_embedding, lora_expert

ALL = slice(0, 2)


def test_lora_adds_the_scaled_product() -> None:
    """B·A = [2 1]ᵀ·[1 0 −1] = [[2 0 −2] [1 0 −1]], and half of that is added."""
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    rows = lora(torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[2.0], [1.0]]), scale=0.5)
    assert rows(weight[1:].clone(), slice(1, 2)).tolist() == [[4.5, 5.0, 5.5]]
    assert rows(weight, ALL).tolist() == [[2.0, 2.0, 2.0], [4.5, 5.0, 5.5]]


def test_lora_works_in_place() -> None:
    weight = torch.zeros(2, 3)
    assert lora(torch.ones(1, 3), torch.ones(2, 1), scale=1.0)(weight, ALL) is weight


def test_kernels_flatten() -> None:
    """A [r=1, in=1, k=2] and B [out=2, 1, 1]: ΔW = [[1 2] [3 6]], the kernel's places side by side."""
    rows = lora(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0]], [[3.0]]]), scale=1.0)
    assert rows(torch.zeros(2, 2), ALL).tolist() == [[1.0, 2.0], [3.0, 6.0]]


def test_embeddings_take_the_product_turned() -> None:
    """A [r=1, V=2] = [1 2], B [d=3, r=1] = [1 0 −1]ᵀ: (B·A)ᵀ = [[1 0 −1] [2 0 −2]], twice that."""
    rows = lora_embedding(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [0.0], [-1.0]]), scale=2.0)
    assert rows(torch.zeros(2, 3), ALL).tolist() == [[2.0, 0.0, -2.0], [4.0, 0.0, -4.0]]


def test_the_bias_of_b_is_scaled_like_the_product() -> None:
    assert lora_bias(torch.tensor([1.0, 2.0]), torch.tensor([4.0, -2.0]), scale=0.5).tolist() == [3.0, 1.0]


def test_experts_lie_one_after_the_other_in_a_and_interleaved_in_b() -> None:
    """Two experts of rank 2: A's rows are e₀ e₀ e₁ e₁, B's columns e₀ e₁ e₀ e₁.

    Expert 1: B₁ = [[2 4]], A₁ = [[5] [6]], B₁·A₁ = 10 + 24 = 34; expert 0: [[1 3]]·[[7] [8]] = 31.
    """
    a, b = torch.tensor([[7.0], [8.0], [5.0], [6.0]]), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    for expert, product in ((0, 31.0), (1, 34.0)):
        rows = lora_expert(a, b, scale=1.0, expert=expert, experts=2)
        assert rows(torch.zeros(1, 1), slice(0, 1)).tolist() == [[product]]
