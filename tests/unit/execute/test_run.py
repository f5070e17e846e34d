"""A plan's bytes in a directory: untouched runs are copied, the rest is made, and the first failure ends it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.files import snapshot, stored_tensors
from helpers.handmade import (
    HIDDEN,
    attention_modules,
    bert_shapes,
    change_tensors,
    lora_tensors,
    write_adapter,
    write_base,
)
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.execute import default_workers, execute
from ingraft.execute.copies import copy_runs
from ingraft.plan import plan_merge
from ingraft.steps import MergeStep, OutputShard


def copied(name: str, start: int, count: int, file: str = "base") -> MergeStep:
    info = TensorInfo(name, "U8", (count,), Path(file), start, start + count)
    return MergeStep("copy", name, "U8", (count,), info, (), "")


def made(name: str, count: int) -> MergeStep:
    return MergeStep("edit", name, "U8", (count,), None, (), "")


def test_neighbours_are_copied_together() -> None:
    steps = (copied("a", 100, 10), copied("b", 110, 5), copied("empty", 115, 0), made("c", 7), copied("d", 122, 4))

    runs = list(copy_runs(OutputShard("x", steps, {}), 40))

    assert [(run.start, run.position, run.count) for run in runs] == [(100, 40, 15), (122, 62, 4)]


def test_what_does_not_lie_together_is_not() -> None:
    steps = (copied("a", 100, 10), copied("b", 120, 5), copied("c", 125, 5, "other"), copied("d", 0, 2, "other"))

    runs = list(copy_runs(OutputShard("x", steps, {}), 0))

    assert [(str(r.source), r.start, r.position, r.count) for r in runs] == [
        ("base", 100, 0, 10),
        ("base", 120, 10, 5),
        ("other", 125, 15, 5),
        ("other", 0, 20, 2),
    ]


def test_what_is_put_between_keeps_neighbours_apart() -> None:
    """They lie together in the base, and not in the output."""
    runs = list(copy_runs(OutputShard("x", (copied("a", 0, 10), made("b", 5), copied("c", 10, 4)), {}), 0))

    assert [(run.start, run.position, run.count) for run in runs] == [(0, 0, 10), (10, 15, 4)]


def test_large_runs_are_shared_between_threads() -> None:
    (run,) = copy_runs(OutputShard("x", (copied("a", 5, 200 * 2**20),), {}), 3)

    pieces = list(run.pieces())

    assert len(pieces) == 4
    assert sum(piece.count for piece in pieces) == run.count
    assert all(piece.start - piece.position == 2 for piece in pieces)
    assert [piece.start for piece in pieces] == [5, *(piece.start + piece.count for piece in pieces[:-1])]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_everything_is_written(workers: int, dtype: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=2, sentence_transformers=True)
    adapter = write_adapter(tmp_path / "adapter", base)
    plan = plan_merge(adapter, dtype=dtype)  # type: ignore[arg-type]
    (tmp_path / "out").mkdir()
    told: dict[Path, list[tuple[int, int]]] = {}

    def written(path: Path, position: int, count: int) -> None:
        told.setdefault(path, []).append((position, position + count))

    figures = execute(plan, tmp_path / "out", workers=workers, written=written).figures

    assert told.keys() == {tmp_path / "out" / shard.file for shard in plan.shards}
    for path, pieces in told.items():  # every byte once
        starts, stops = zip(*sorted(pieces), strict=True)
        assert (*starts, path.stat().st_size) == (0, *stops)
    files = {name for name, kind in snapshot(tmp_path / "out").items() if kind != "directory"}
    assert files == {shard.file for shard in plan.shards} | {f.path for f in plan.carried} | {
        w.path for w in plan.written
    }
    assert {figure.tensor for figure in figures} == {f"{module}.weight" for module in attention_modules()}
    assert all(figure.elements == HIDDEN**2 for figure in figures)
    assert all(figure.delta_norm > 0 and figure.changed > 0.9 * figure.elements for figure in figures)
    assert all((figure.rounding_loss > 1e-4) == (dtype == "bfloat16") for figure in figures)
    if dtype == "auto":
        before, after = stored_tensors(base), stored_tensors(tmp_path / "out")
        assert {n for n in before if before[n] != after[n]} == {figure.tensor for figure in figures}


def test_torchs_threads_are_given_back(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    plan = plan_merge(write_adapter(tmp_path / "adapter", base))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (tmp_path / "out").mkdir()
        execute(plan, tmp_path / "out")
        assert torch.get_num_threads() == 2
        change_tensors(base / "model.safetensors", {"pooler.dense.bias": None})
        with pytest.raises((EOFError, UnusableInput, OSError)):
            execute(plan, tmp_path / "missing")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_first_failure_ends_it(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    tensors = lora_tensors(attention_modules(), bert_shapes())
    name = f"base_model.model.{attention_modules()[2]}.lora_A.weight"
    tensors[name][0, 0] = torch.nan
    plan = plan_merge(write_adapter(tmp_path / "adapter", base, tensors=tensors))
    (tmp_path / "out").mkdir()

    with pytest.raises(UnusableInput, match="holds NaN"):
        execute(plan, tmp_path / "out", workers=2)


def test_base_is_never_opened_for_writing(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    plan = plan_merge(adapter)
    for path in [*base.rglob("*"), *adapter.rglob("*")]:
        path.chmod(0o444)
    before = load_file(base / "model.safetensors")
    (tmp_path / "out").mkdir()

    execute(plan, tmp_path / "out")

    assert all(torch.equal(value, before[name]) for name, value in load_file(base / "model.safetensors").items())


def test_default_workers() -> None:
    assert 1 <= default_workers() <= 8
