"""plan → execute → verify → publish: in this order, and what happens when one of them says no."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ingraft
import ingraft.execute
import ingraft.flush
import ingraft.verification.weights
from helpers.files import snapshot
from helpers.handmade import HIDDEN, attention_modules, bert_shapes, lora_tensors, write_adapter, write_base
from ingraft.errors import CheckFailed, UnusableInput
from ingraft.pipeline import merge, run_plan
from ingraft.plan import plan_merge
from ingraft.steps import OutputShard
from ingraft.verification.report import Check


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "in" / "adapter", write_base(tmp_path / "in" / "base"))


def test_order(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            events.append(f"{name}, output {'there' if (tmp_path / 'out').exists() else 'not there'}")
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(ingraft.pipeline, "execute", noted("execute", ingraft.execute.execute))
    proof = ingraft.verification.weights.WeightProof
    monkeypatch.setattr(proof, "check", noted("verify", proof.check))

    result = merge(adapter, tmp_path / "out", on_plan=lambda plan: events.append(f"plan {plan.count('edit')}"))

    assert events == ["plan 4", "execute, output not there", "verify, output not there"]
    assert (tmp_path / "out" / "ingraft.json").is_file()
    assert result.output == tmp_path / "out"
    assert result.seconds > 0


@pytest.mark.parametrize("verify", [True, False])
def test_each_file_is_proven_before_the_next_is_begun(
    verify: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does not fit into memory is read from the disk once."""
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base", shards=3))
    complete: list[list[bool]] = []
    check = ingraft.verification.weights.WeightProof.check

    def noted(proof: ingraft.verification.weights.WeightProof, shard: OutputShard) -> None:
        (folder,) = tmp_path.glob(".ingraft-*")
        complete.append([any(file.read_bytes()[-64:]) for file in sorted(folder.glob("*.safetensors"))])
        assert complete[-1][int(shard.file[6:11]) - 1]
        check(proof, shard)

    monkeypatch.setattr(ingraft.verification.weights.WeightProof, "check", noted)

    merge(adapter, tmp_path / "out", verify=verify)

    one_by_one = [[True, False, False], [True, True, False], [True, True, True]]
    assert complete == (one_by_one if verify else [])


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("memory", [1, 1 << 40, None])
def test_what_is_done_leaves_memory_where_not_all_fits(
    verify: bool, memory: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_base(tmp_path / "base", shards=3))
    left: list[str] = []
    monkeypatch.setattr(ingraft.pipeline, "available_memory", lambda: memory)
    monkeypatch.setattr(ingraft.flush, "leave_memory", lambda path: left.append(path.name))

    merge(adapter, tmp_path / "out", verify=verify)

    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert sorted(set(left)) == (files if memory == 1 else [])
    assert len(files) == 3


def test_occupied_output_is_seen_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()

    with pytest.raises(UnusableInput, match="not empty"):
        merge(tmp_path / "no adapter at all", tmp_path / "out")


def test_failed_check_publishes_nothing(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Check("probes", False, "W′·x", 3.14159, 1.0, "encoder.layer.0")
    monkeypatch.setattr(ingraft.verification.weights.WeightProof, "checks", lambda _: (bad,))
    before = snapshot(tmp_path)

    with pytest.raises(
        CheckFailed, match=r"The proof failed: probes: 3\.14, allowed 1 \(encoder\.layer\.0\)"
    ) as failed:
        merge(adapter, tmp_path / "out")

    assert "Nothing was published" in failed.value.hint
    assert snapshot(tmp_path) == before


def test_failed_check_keeps_the_old_output(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(adapter, tmp_path / "out")
    before = snapshot(tmp_path)
    bad = Check("structure", False, "as planned")
    monkeypatch.setattr(ingraft.verification.weights.WeightProof, "checks", lambda _: (bad,))

    with pytest.raises(CheckFailed, match="The proof failed: structure"):
        merge(adapter, tmp_path / "out", overwrite=True)

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("where", ["execute", "verify"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_any_other_failure_leaves_nothing(
    where: str, error: type[BaseException], adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    if where == "execute":
        monkeypatch.setattr(ingraft.pipeline, "execute", fail)
    else:
        monkeypatch.setattr(ingraft.verification.weights.WeightProof, "check", fail)
    before = snapshot(tmp_path)

    with pytest.raises(error):
        merge(adapter, tmp_path / "out")

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_merge_that_changes_nothing(dtype: str, verify: bool, tmp_path: Path) -> None:
    """Also when every tensor is cast: that is not the adapter's doing."""
    tensors = lora_tensors(attention_modules(), bert_shapes())
    zero = {key: value * 0 if "lora_B" in key else value for key, value in tensors.items()}
    adapter = write_adapter(tmp_path / "in" / "adapter", write_base(tmp_path / "in" / "base"), tensors=zero)
    before = snapshot(tmp_path)

    with pytest.raises(UnusableInput, match=r"would equal the base: .* changes nothing"):
        merge(adapter, tmp_path / "out", dtype=dtype, verify=verify)  # type: ignore[arg-type]

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verify", [True, False])
def test_delta_that_the_stored_dtype_cannot_hold(verify: bool, tmp_path: Path) -> None:
    tensors = {key: value * 1e-5 for key, value in lora_tensors(attention_modules(), bert_shapes()).items()}
    base = write_base(tmp_path / "in" / "base", dtype=torch.bfloat16)
    adapter = write_adapter(tmp_path / "in" / "adapter", base, tensors=tensors)

    with pytest.raises(UnusableInput, match="the stored dtype cannot hold any of the adapter's delta"):
        merge(adapter, tmp_path / "out", verify=verify)


@pytest.mark.parametrize("verify", [True, False])
def test_one_changed_element_is_a_change(verify: bool, tmp_path: Path) -> None:
    tensors = {key: value * 0 for key, value in lora_tensors(attention_modules(), bert_shapes()).items()}
    key = f"base_model.model.{attention_modules()[0]}"
    tensors[f"{key}.lora_A.weight"][0, 0] = tensors[f"{key}.lora_B.weight"][0, 0] = 1.0
    adapter = write_adapter(tmp_path / "in" / "adapter", write_base(tmp_path / "in" / "base"), tensors=tensors)

    result = merge(adapter, tmp_path / "out", verify=verify)

    assert [figure.changed for figure in result.figures if figure.changed] == ([1] if verify else [])


def test_plan_that_was_made_before(adapter: Path, tmp_path: Path) -> None:
    plan = plan_merge(adapter)

    result = run_plan(plan, tmp_path / "out", verify=False, workers=1)

    assert result.report is None
    assert result.plan is plan
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_whole_tensors_count_as_change(tmp_path: Path) -> None:
    """An adapter that holds a module whole, and nothing else, changes the base."""
    name = "pooler.dense.weight"
    tensors = {f"base_model.model.{name}": torch.ones(HIDDEN, HIDDEN)}
    adapter = write_adapter(tmp_path / "a", write_base(tmp_path / "b"), tensors=tensors, modules_to_save=["pooler"])

    result = merge(adapter, tmp_path / "out")

    assert [(figure.tensor, figure.changed) for figure in result.figures] == [(name, HIDDEN * HIDDEN)]


def test_public_names_are_where_type_checkers_find_them() -> None:
    """What is imported for them alone says the same as the table that is read when a name is asked for."""
    tree = ast.parse(Path(ingraft.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {name.name: f"{node.module}" for node in imports for name in node.names if name.asname}

    assert found == {name: f"ingraft.{module}" for name, module in ingraft._HOME.items()}
    assert sorted(found) == ingraft.__all__


def test_public_names() -> None:
    assert ingraft.merge is merge
    assert set(ingraft.__all__) <= set(dir(ingraft))
    assert all(getattr(ingraft, name) is not None for name in ingraft.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'merg'"):
        ingraft.merg  # noqa: B018
