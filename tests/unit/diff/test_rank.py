"""The rank of a difference: exactly the adapter's, whatever the stored dtype has made of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ingraft.checkpoint import read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.diff import rank as module
from ingraft.diff.rank import Rank, rank_of


def rank(folder: Path, a: Tensor, b: Tensor) -> Rank | None:
    infos = []
    for name, tensor in (("a", a), ("b", b)):
        save_file({"t": tensor.contiguous()}, folder / f"{name}.safetensors")
        infos += read_header(folder / f"{name}.safetensors").tensors
    with open_files() as files:
        return rank_of(files, *infos)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def low_rank(rows: int, columns: int, r: int, size: float) -> Tensor:
    return size * random(rows, r, seed=1) @ random(r, columns, seed=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("r", [1, 8, 31, 100])
@pytest.mark.parametrize("shape", [(300, 200), (150, 420)])
def test_rank_of_a_low_rank_delta(tmp_path, monkeypatch, dtype, r, shape) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 10_000)  # several blocks
    a = random(*shape, seed=0).to(dtype)
    b = (a.float() + low_rank(*shape, r, 0.3)).to(dtype)

    found = rank(tmp_path, a, b)

    assert found is not None
    assert (found.value, found.at_least) == (r, False)
    exact = torch.linalg.svdvals(b.double() - a.double())
    assert exact[r - 1] > found.tolerance > exact[r] if r < min(shape) else True
    assert found.largest == pytest.approx(float(exact[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("before", "after"), [("float32", "bfloat16"), ("float32", "float16"), ("float16", "bfloat16")]
)
@pytest.mark.parametrize("shape", [(400, 300), (40, 1000), (2, 384)])
def test_rounding_has_no_rank(tmp_path, before, after, shape) -> None:
    # Rows and columns of very different size: what is noise in one is more than that in another.
    exact = random(*shape, seed=0) * torch.logspace(-2, 2, shape[0])[:, None] * torch.logspace(1, -1, shape[1])

    found = rank(tmp_path, exact.to(getattr(torch, before)), exact.to(getattr(torch, after)))

    assert found is not None
    assert found.value == 0
    assert 0 < found.largest <= found.tolerance


def test_two_merges_of_one_model_differ_by_rounding(tmp_path) -> None:
    exact = random(300, 300, seed=0).double() + low_rank(300, 300, 4, 0.1)
    shaken = exact * (1 + 2.0**-10 * (torch.rand(300, 300, generator=torch.Generator().manual_seed(5)) - 0.5))

    found = rank(tmp_path, exact.bfloat16(), shaken.bfloat16())

    assert found is not None
    assert found.value == 0


def test_a_delta_that_is_rounded_away_in_part_has_no_higher_rank(tmp_path) -> None:
    a = random(512, 512, seed=0).bfloat16()
    delta = low_rank(512, 512, 4, 1e-3)  # most elements stay as they are
    b = (a.float() + delta).bfloat16()
    assert (a == b).float().mean() > 0.3

    found = rank(tmp_path, a, b)

    assert found is not None
    assert found.value <= 4


def test_full_rank_is_found_where_it_is_small(tmp_path) -> None:
    found = rank(tmp_path, random(100, 60, seed=0), random(100, 60, seed=1))

    assert found is not None
    assert (found.value, found.at_least) == (60, False)


def test_above_256_it_is_a_lower_bound(tmp_path) -> None:
    found = rank(tmp_path, random(300, 320, seed=0), random(300, 320, seed=1))

    assert found is not None
    assert (found.value, found.at_least) == (256, True)


def test_bound_for_very_long_rows(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_NUMBERS", 12 * 1000)

    found = rank(tmp_path, random(20, 1000, seed=0), random(20, 1000, seed=1))

    assert found is not None
    assert (found.value, found.at_least) == (4, True)


def test_difference_to_zero(tmp_path) -> None:
    found = rank(tmp_path, torch.zeros(50, 50), low_rank(50, 50, 3, 1.0))

    assert found is not None
    assert found.value == 3


def test_whole_numbers_are_not_rounded(tmp_path) -> None:
    a = torch.zeros(60, 80, dtype=torch.int64)
    b = a.clone()
    b[0, 0], b[7, 9] = 10_000_000, 1

    found = rank(tmp_path, a, b)

    assert found is not None
    assert found.value == 2


def test_kernels_are_matrices_and_stacks_are_not_one(tmp_path) -> None:
    kernel = random(30, 6, 3, 3, seed=0)
    stack = random(5, 30, 40, seed=0)
    changed = stack.clone()
    changed[1] += low_rank(30, 40, 2, 1.0)
    changed[4] += low_rank(30, 40, 6, 1.0)

    of_kernel = rank(tmp_path, kernel, kernel + low_rank(30, 54, 4, 1.0).reshape(30, 6, 3, 3))
    of_stack = rank(tmp_path, stack, changed)

    assert of_kernel is not None
    assert of_stack is not None
    assert (of_kernel.value, of_stack.value) == (4, 6)


def test_vectors_have_none(tmp_path) -> None:
    assert rank(tmp_path, torch.zeros(9), torch.ones(9)) is None
    assert rank(tmp_path, torch.zeros(0, 4), torch.ones(0, 4)) is None
