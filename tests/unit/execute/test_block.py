"""A tensor in blocks: cut without gaps, made, rounded once, measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import open_files
from ingraft.errors import UnusableInput
from ingraft.execute import block, rounding
from ingraft.execute.block import edit_block, part_jobs
from ingraft.execute.inputs import FormulaCache
from ingraft.kernels import bfloat16
from ingraft.kernels.buffers import Buffers
from ingraft.steps import REPLACE, ZERO, Edit, MergeStep

NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}


def edit_of(
    rows: int,
    columns: int,
    *,
    formula: str = "lora:lora",
    inputs: dict[str, TensorInfo] | None = None,
    at: int = 0,
    part: str = "weight",
    transposed: bool = False,
    of: tuple[int, int] | None = None,
) -> Edit:
    """An edit of `rows` × `columns` numbers from element `at`; `of`: they are these rows of a larger matrix."""
    first, last = of or (0, rows)
    return Edit(
        target="m",
        parameter="m.weight",
        part=part,  # type: ignore[arg-type]
        kind="linear",
        formula=formula,
        inputs=inputs or {},
        settings={"scale": 2.0},
        shape=(max(last, rows), columns),
        elements=(at, at + rows * columns),
        rows=(first, last),
        transposed=transposed,
    )


def step_of(
    shape: tuple[int, ...], edits: tuple[Edit, ...], dtype: str = "F32", source: TensorInfo | None = None
) -> MergeStep:
    return MergeStep("edit", "m.weight", dtype, shape, source, edits, "because")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.integers(1, 7),
    st.booleans(),
    st.integers(1, 50),
)
def test_cut_without_gaps(parts: list[tuple[int, int]], columns: int, transposed: bool, size: int) -> None:
    """Blocks cover every element once, whole rows at a time, and know the edits that are theirs."""
    edits, at = [], 0
    for rows, gap in parts:
        edits.append(edit_of(rows, columns, at=at, transposed=transposed))
        at += (rows + gap) * columns
    step = step_of((at // columns, columns), tuple(edits))

    before, block.BLOCK_ELEMENTS = block.BLOCK_ELEMENTS, size
    try:
        jobs = part_jobs(step, 1000)
    finally:
        block.BLOCK_ELEMENTS = before

    assert [job.start for job in jobs] == [0, *(job.stop for job in jobs[:-1])]
    assert jobs[-1].stop == at
    for job in jobs:
        assert job.position == 1000
        assert job.stop > job.start
        for index in job.edits:
            start, stop = edits[index].elements
            assert start <= job.start < job.stop <= stop
            if transposed:
                assert (job.start, job.stop) == (start, stop)
            else:
                assert (job.start - start) % columns == (job.stop - start) % columns == 0
                assert job.stop - job.start <= max(size, columns)
        if not job.edits:
            assert all(job.stop <= e.elements[0] or job.start >= e.elements[1] for e in edits)


class Work:
    """A base tensor and adapter tensors in files, and the output of one step on them."""

    def __init__(self, folder: Path, base: Tensor | None, **adapter: Tensor) -> None:
        self.folder = folder
        save_file(adapter, folder / "adapter.safetensors")
        self.inputs = {info.name: info for info in read_header(folder / "adapter.safetensors").tensors}
        self.source = None
        if base is not None:
            save_file({"m.weight": base}, folder / "base.safetensors")
            (self.source,) = read_header(folder / "base.safetensors").tensors

    def run(self, step: MergeStep, dtype: torch.dtype, *, measured: bool = True) -> tuple[Tensor, list[Any]]:
        target = self.folder / "out"
        target.write_bytes(bytes(7 + step.nbytes))
        with open_files() as files:
            jobs = part_jobs(step, 7)
            cache = FormulaCache(files, step, len(jobs), {})
            figures = [edit_block(job, cache, files, target, Buffers(), measured=measured) for job in jobs]
        content = bytearray(target.read_bytes()[7:])
        return torch.frombuffer(content, dtype=dtype).reshape(step.shape), figures


@pytest.fixture(params=[1 << 20, 20], ids=["one block", "many blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(block, "BLOCK_ELEMENTS", request.param)
    return int(request.param)


# Seeded: for some numbers, one in a few hundred draws, float32 and float64 round to different bfloat16 neighbours.
_SEED = torch.Generator().manual_seed(0)
A, B = torch.randn(3, 8, generator=_SEED), torch.randn(10, 3, generator=_SEED)
DELTA = 2.0 * (B.double() @ A.double())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("written", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rounded_once(stored: torch.dtype, written: torch.dtype, blocks: int, tmp_path: Path) -> None:
    base = torch.randn(10, 8).to(stored)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), NAMES[written], work.source)

    found, _ = work.run(step, written)

    exact = base.double() + DELTA
    torch.testing.assert_close(found, exact.to(written), rtol=torch.finfo(written).eps * 4, atol=1e-6)
    if written in (torch.bfloat16, torch.float16):
        assert found.equal(exact.to(written))
    assert sum(job.place[1] for job in part_jobs(step, 0)) == step.nbytes


def test_figures(blocks: int, tmp_path: Path) -> None:
    base = torch.randn(10, 8).to(torch.bfloat16)
    work = Work(tmp_path, base, lora_A=A, lora_B=B / 100)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), "BF16", work.source)

    found, figures = work.run(step, torch.bfloat16)

    exact = base.double() + DELTA / 100
    assert sum(f.base for f in figures) == pytest.approx(float(base.double().square().sum()), rel=1e-5)
    assert sum(f.delta for f in figures) == pytest.approx(float((DELTA / 100).square().sum()), rel=1e-4)
    assert sum(f.loss for f in figures) == pytest.approx(float((found.double() - exact).square().sum()), rel=1e-2)
    assert sum(f.changed for f in figures) == int((found != base).sum())
    assert 0 < sum(f.changed for f in figures) < 80


@pytest.mark.parametrize("changed", [None, (0, 0), (9, 7)])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_not_measured_is_looked_at_for_a_change(
    changed: tuple[int, int] | None, compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing for a changed block; all figures for one whose delta the dtype cannot hold, or whose delta is none."""
    monkeypatch.setattr(rounding, "_GLANCE", 5)
    monkeypatch.setattr(bfloat16, "COMPILED", bfloat16.COMPILED and compiled)
    base = torch.ones(10, 8, dtype=torch.bfloat16)
    a, b = torch.zeros(3, 8), torch.zeros(10, 3)
    a[0] = b[:, 0] = 1e-2
    if changed:
        b[changed[0], 1] = a[1, changed[1]] = 1
    work = Work(tmp_path, base, lora_A=a, lora_B=b)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), "BF16", work.source)

    found, figures = work.run(step, torch.bfloat16, measured=False)

    assert found.equal((base.double() + 2.0 * (b.double() @ a.double())).to(torch.bfloat16))
    if changed:
        assert figures == [None]
    else:
        assert (figures[0].changed, figures[0].delta > 0) == (0, True)


def test_bias(tmp_path: Path, blocks: int) -> None:
    """Its formula makes all of it, so it is one block, however long it is."""
    bias, own = torch.randn(30), torch.randn(30)
    work = Work(tmp_path, bias, lora_bias=own)
    edit = edit_of(30, 1, formula="lora:lora_bias", inputs=work.inputs, part="bias")

    stored, _ = work.run(step_of((30,), (edit,), "F32", work.source), torch.float32)

    assert stored.equal((bias.double() + 2.0 * own.double()).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conv1d(dtype: torch.dtype, tmp_path: Path, blocks: int) -> None:
    base = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)).to(dtype)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((8, 10), (edit_of(10, 8, inputs=work.inputs, transposed=True),), NAMES[dtype], work.source)

    found, _ = work.run(step, dtype)

    torch.testing.assert_close(found, (base.double() + DELTA.T).to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_products_on_one_weight(dtype: torch.dtype, tmp_path: Path, blocks: int) -> None:
    """Added up before the sum is rounded."""
    base = torch.randn(10, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),) * 2, NAMES[dtype], work.source)

    found, _ = work.run(step, dtype)

    torch.testing.assert_close(found, (base.double() + 2 * DELTA).to(dtype), rtol=1e-5, atol=1e-5)


def test_numbers_whose_squares_are_too_large_for_float32(tmp_path: Path) -> None:
    """No fault: they themselves are not."""
    base = torch.full((10, 8), 1e30, dtype=torch.bfloat16)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), "BF16", work.source)

    found, _ = work.run(step, torch.bfloat16)

    assert found.equal(base)


def test_rows_of_a_fused_matrix(tmp_path: Path, blocks: int) -> None:
    """The delta belongs to rows 5 to 15 of the stored tensor; what is around it keeps its bytes."""
    base = torch.randn(20, 8).to(torch.bfloat16)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((20, 8), (edit_of(10, 8, inputs=work.inputs, at=40),), "BF16", work.source)

    found, _ = work.run(step, torch.bfloat16)

    assert found[:5].equal(base[:5])
    assert found[15:].equal(base[15:])
    assert found[5:15].equal((base[5:15].double() + DELTA).to(torch.bfloat16))


def test_some_rows_of_the_matrix(tmp_path: Path, blocks: int) -> None:
    """The stored part holds rows 4 to 10 of the matrix that the adapter knows."""
    base = torch.randn(6, 8)
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    step = step_of((6, 8), (edit_of(6, 8, inputs=work.inputs, of=(4, 10)),), "F32", work.source)

    found, _ = work.run(step, torch.float32)

    torch.testing.assert_close(found.double(), base.double() + DELTA[4:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [10, 13])
def test_replaced(rows: int, tmp_path: Path, blocks: int) -> None:
    value = torch.randn(rows, 8)
    work = Work(tmp_path, torch.randn(10, 8).to(torch.bfloat16), value=value)
    step = step_of((rows, 8), (edit_of(rows, 8, formula=REPLACE, inputs=work.inputs),), "BF16", work.source)

    found, figures = work.run(step, torch.bfloat16)

    assert found.equal(value.to(torch.bfloat16))
    assert sum(f.changed for f in figures) > 0


def test_added(tmp_path: Path, blocks: int) -> None:
    value = torch.randn(4, 8)
    work = Work(tmp_path, None, value=value)
    step = step_of((4, 8), (edit_of(4, 8, formula=REPLACE, inputs=work.inputs),), "F32")

    found, figures = work.run(step, torch.float32)

    assert found.equal(value)
    assert sum(f.changed for f in figures) == 32
    assert sum(f.delta for f in figures) == pytest.approx(float(value.square().sum()), rel=1e-5)


def test_replaced_and_edited(tmp_path: Path, blocks: int) -> None:
    value = torch.randn(10, 8)
    work = Work(tmp_path, torch.randn(10, 8), value=value, lora_A=A, lora_B=B)
    edits = (
        edit_of(10, 8, formula=REPLACE, inputs={"value": work.inputs["value"]}),
        edit_of(10, 8, inputs={name: work.inputs[name] for name in ("lora_A", "lora_B")}),
    )

    found, _ = work.run(step_of((10, 8), edits, "F32", work.source), torch.float32)

    torch.testing.assert_close(found.double(), value.double() + DELTA, rtol=1e-5, atol=1e-5)


def test_zero(tmp_path: Path, blocks: int) -> None:
    work = Work(tmp_path, torch.randn(10), lora_A=A)
    step = step_of((10,), (edit_of(10, 1, formula=ZERO, part="bias"),), "F32", work.source)

    found, _ = work.run(step, torch.float32)

    assert found.equal(torch.zeros(10))


def test_cast_alone(tmp_path: Path, blocks: int) -> None:
    base = torch.randn(9, 5)
    work = Work(tmp_path, base, lora_A=A)

    found, figures = work.run(step_of((9, 5), (), "F16", work.source), torch.float16)

    assert found.equal(base.to(torch.float16))
    assert sum(f.changed for f in figures) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["lora_A", "lora_B"])
def test_diverged_adapter(value: float, where: str, tmp_path: Path) -> None:
    tensors = {"lora_A": A.clone(), "lora_B": B.clone()}
    tensors[where][1, 1] = value
    work = Work(tmp_path, torch.randn(10, 8), **tensors)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), "F32", work.source)

    with pytest.raises(UnusableInput, match=f"{where} holds NaN or infinity"):
        work.run(step, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("edited", [True, False])
def test_base_that_is_not_finite(dtype: torch.dtype, edited: bool, tmp_path: Path) -> None:
    """Refused where the merge writes it anew: its element would be read as the adapter's doing."""
    base = torch.randn(10, 8).to(dtype)
    base[3, 3] = float("inf")
    work = Work(tmp_path, base, lora_A=A, lora_B=B)
    edits = (edit_of(10, 8, inputs=work.inputs),) if edited else ()

    with pytest.raises(UnusableInput, match=r"m\.weight"):
        work.run(step_of((10, 8), edits, NAMES[dtype], work.source), dtype)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize(
    ("number", "delta", "said"),
    [
        (float("nan"), 1.0, "NaN or infinity"),
        (float("inf"), 1.0, "NaN or infinity"),
        (3e38, 1e38, "NaN or infinity"),
        (0.0, 3.4e38, "cannot hold"),
    ],
)
def test_a_sum_that_bfloat16_cannot_hold(
    number: float, delta: float, said: str, measured: bool, tmp_path: Path
) -> None:
    base = torch.full((10, 8), number, dtype=torch.bfloat16)
    work = Work(tmp_path, base, lora_A=torch.ones(1, 8), lora_B=torch.full((10, 1), delta / 2.0))
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), "BF16", work.source)

    with pytest.raises(UnusableInput, match=said):
        work.run(step, torch.bfloat16, measured=measured)


@pytest.mark.parametrize(("edits", "transposed", "passes"), [(1, False, 1), (2, False, 0), (1, True, 0)])
def test_a_product_is_added_as_it_is_rounded(
    edits: int, transposed: bool, passes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass, where it is all that is done to a block and the block lies as the product does."""
    kernel, added = bfloat16.chosen.add_and_measure, []
    both = SimpleNamespace(
        round_and_measure=bfloat16.chosen.round_and_measure,
        add_and_measure=lambda *arrays: added.append(1) or kernel(*arrays),
    )
    monkeypatch.setattr(rounding, "bfloat16", SimpleNamespace(chosen=both, COMPILED=bfloat16.COMPILED))
    base = torch.randn(8, 10) if transposed else torch.randn(10, 8)
    work = Work(tmp_path, base.bfloat16(), lora_A=A, lora_B=B)
    edit = edit_of(10, 8, inputs=work.inputs, transposed=transposed)

    work.run(step_of(tuple(base.shape), (edit,) * edits, "BF16", work.source), torch.bfloat16)

    assert len(added) == passes


@pytest.mark.parametrize("size", [7e4, 3.3e38])
def test_overflow_of_the_stored_dtype(size: float, tmp_path: Path) -> None:
    """70,000 is beyond float16; 3.4e38 is beyond what bfloat16 rounds to."""
    dtype = torch.float16 if size < 1e6 else torch.bfloat16
    base = torch.zeros(10, 8)
    base[2, 2] = size if dtype == torch.float16 else 3.4e38
    work = Work(tmp_path, base, lora_A=torch.zeros(3, 8), lora_B=B)
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), NAMES[dtype], work.source)

    with pytest.raises(UnusableInput, match="cannot hold"):
        work.run(step, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("a", "b"), [((3, 9), (10, 3)), ((4, 8), (10, 3)), ((3, 1), (10, 3)), ((3, 8), (1, 3))])
def test_tensors_that_do_not_fit(a: tuple[int, int], b: tuple[int, int], dtype: torch.dtype, tmp_path: Path) -> None:
    """Nor are a single row or column spread over all."""
    work = Work(tmp_path, torch.randn(10, 8).to(dtype), lora_A=torch.randn(a), lora_B=torch.randn(b))
    step = step_of((10, 8), (edit_of(10, 8, inputs=work.inputs),), NAMES[dtype], work.source)

    with pytest.raises(UnusableInput, match=r"m do not fit its weight of \[10, 8\]") as refused:
        work.run(step, dtype)

    assert "\n" not in refused.value.message
