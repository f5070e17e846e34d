"""The plan as data."""

from __future__ import annotations

import json
import math
from pathlib import Path

from helpers.files import raw_tensors
from helpers.handmade import write_adapter, write_base
from ingraft.plan import plan_merge
from ingraft.steps import MergeStep, OutputShard


def step(name: str, dtype: str, shape: tuple[int, ...], action: str = "copy") -> MergeStep:
    return MergeStep(action, name, dtype, shape, None, (), "because")  # type: ignore[arg-type]


def test_sizes(tmp_path: Path) -> None:
    shard = OutputShard(
        "model.safetensors", (step("a", "F32", (3, 4)), step("b", "BF16", (5,)), step("c", "I64", ())), {"format": "pt"}
    )

    assert [s.nbytes for s in shard.steps] == [48, 10, 8]
    assert [s.elements for s in shard.steps] == [12, 5, 1]
    assert shard.nbytes == len(shard.header()) + 66
    (tmp_path / "x").write_bytes(shard.header() + bytes(66))
    found = {name: (dtype, shape) for name, (dtype, shape, _) in raw_tensors(tmp_path / "x").items()}
    assert found == {"a": ("F32", (3, 4)), "b": ("BF16", (5,)), "c": ("I64", ())}


def test_plan_in_json_types(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", shards=2)
    plan = plan_merge(write_adapter(tmp_path / "adapter", base))

    written = json.loads(json.dumps(plan.to_dict()))

    assert written["base"]["root"] == str(base)
    assert [s["tensor"] for shard in written["shards"] for s in shard["steps"]] == [s.tensor for s in plan.steps()]
    edits = [edit for shard in written["shards"] for s in shard["steps"] for edit in s["edits"]]
    assert len(edits) == len(list(plan.edits())) == plan.count("edit") == 4
    assert all(math.prod(edit["shape"]) == edit["elements"][1] - edit["elements"][0] for edit in edits)
    assert plan.count("copy", "edit") == len(list(plan.steps()))
