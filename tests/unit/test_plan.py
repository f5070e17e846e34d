"""Every decision of a merge, from headers and JSON alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.files import snapshot, write_json
from helpers.handmade import (
    HIDDEN,
    attention_modules,
    bert_shapes,
    change_tensors,
    load_json,
    lora_tensors,
    random_tensors,
    write_adapter,
    write_base,
)
from helpers.merging import merged
from ingraft.adapter import open_adapter
from ingraft.errors import UnusableInput
from ingraft.plan import RUNTIME_MEMORY, _check_all_used, plan_merge
from ingraft.targets import PlacedEdit


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", shards=2, sentence_transformers=True)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return write_adapter(tmp_path / "adapter", base)


@pytest.mark.parametrize("alpha", [10**400, "inf", [8], None], ids=["huge", "text", "list", "nothing"])
def test_settings_that_are_no_numbers(alpha: Any, tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, alpha=alpha)

    with pytest.raises(UnusableInput, match=r"adapter_config.json has no valid settings|expected a number"):
        plan_merge(adapter)


def test_every_tensor_once_in_the_bases_order(base: Path, adapter: Path) -> None:
    plan = plan_merge(adapter)

    assert [shard.file for shard in plan.shards] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard in plan.shards:
        names = [step.tensor for step in shard.steps]
        starts = [step.source.start for step in shard.steps if step.source]
        assert starts == sorted(starts)
        assert len(names) == len(set(names))
    assert {step.tensor for step in plan.steps()} == set(bert_shapes())
    edited = {step.tensor for step in plan.steps() if step.action == "edit"}
    assert edited == {f"{module}.weight" for module in attention_modules()}
    assert all(step.reason for step in plan.steps())
    assert all("lora on " in step.reason for step in plan.steps() if step.action == "edit")


def test_every_adapter_tensor_in_exactly_one_step(adapter: Path) -> None:
    plan = plan_merge(adapter)

    used = [info.name for step in plan.steps() for edit in step.edits for info in edit.inputs.values()]
    assert sorted(used) == sorted(lora_tensors(attention_modules(), bert_shapes()))


def test_settings(adapter: Path) -> None:
    assert {edit.settings["scale"] for edit in plan_merge(adapter).edits()} == {2.0}


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"lora_alpha": 4}, {1.0}),
        ({"use_rslora": True}, {4.0}),
        ({"alpha_pattern": {"query": 12}}, {2.0, 3.0}),
        ({"alpha_pattern": {"layer.0.attention.self.query": 12}}, {2.0, 3.0}),
        ({"alpha_pattern": {"self.que": 12}}, {2.0}),
        ({"alpha_pattern": {r".*layer\.0\..*": 12}}, {2.0, 3.0}),
        ({"alpha_pattern": {r".*\.1\..*": 16, "query": 12}}, {2.0, 3.0, 4.0}),
    ],
)
def test_scale_by_module(config: dict[str, object], scales: set[float], tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "other", base, **config)  # type: ignore[arg-type]

    assert {edit.settings["scale"] for edit in plan_merge(adapter).edits()} == scales


def test_first_pattern_that_fits_counts(tmp_path: Path, base: Path) -> None:
    adapter = write_adapter(tmp_path / "other", base, alpha_pattern={"query": 12, "layer.0.attention.self.query": 20})

    assert {edit.settings["scale"] for edit in plan_merge(adapter).edits() if "query" in edit.target} == {3.0}


def test_needed_disk_is_what_is_written(base: Path, adapter: Path) -> None:
    """In bytes, also of a config that is written anew and is no ASCII."""
    write_json(base / "config.json", {**load_json(base / "config.json"), "id2label": {"0": "größer als ∞"}})
    for dtype in ("auto", "bfloat16"):
        plan = plan_merge(adapter, dtype=dtype)  # type: ignore[arg-type]
        output = merged(adapter, "--dtype", dtype)
        later = ("ingraft.json", "README.md")  # what they say is known after the proof
        sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file() and path.name not in later]
        assert plan.needed_disk == sum(sizes)


def test_carried_files(base: Path, adapter: Path) -> None:
    carried = {file.path for file in plan_merge(adapter, layout="keep").carried}

    assert carried == {
        "config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
        "config_sentence_transformers.json",
    }  # fmt: skip


def test_nothing_is_written(tmp_path: Path, adapter: Path) -> None:
    before = snapshot(tmp_path)

    plan_merge(adapter)

    assert snapshot(tmp_path) == before


def test_plan_needs_no_heavy_library(adapter: Path) -> None:
    """Headers and JSON tell everything about LoRA on layers that are stored under their names."""
    code = (
        "import sys; from ingraft.plan import plan_merge; plan_merge(sys.argv[1])\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'peft', 'sentence_transformers'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(adapter)], capture_output=True, text=True)

    assert (run.stdout, run.stderr) == ("[]\n", "")


def test_dry_run_needs_no_heavy_library(adapter: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from ingraft.cli.app import main; code = main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'numpy', 'transformers', 'peft'} & sys.modules.keys()), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "merge", str(adapter), str(tmp_path / "out"), "--dry-run"]
    run = subprocess.run(command, capture_output=True, text=True)

    assert run.stderr == "0 []\n"


def test_merge_needs_numpy_alone(adapter: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from ingraft.cli.app import main; code = main(sys.argv[1:])\n"
        "print(code, sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "merge", str(adapter), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True)

    assert run.stderr == "0 []\n"


def test_what_peft_merges_is_called_as_in_the_running_model(tmp_path: Path) -> None:
    """Names fit the file as they are, but the class that loads it has no `bert.` before its own."""
    shapes = {f"bert.{name}": shape for name, shape in bert_shapes().items()}
    base = write_base(tmp_path / "base", tensors=random_tensors(shapes), sentence_transformers=True)
    modules = [f"bert.{module}" for module in attention_modules()]
    tensors = lora_tensors(modules, shapes)
    tensors |= {f"base_model.model.{module}.lora_magnitude_vector": torch.ones(HIDDEN) for module in modules}

    def parameters(modules: list[str]) -> list[str]:
        return [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]

    plan = plan_merge(write_adapter(tmp_path / "a", base, tensors=tensors, init_lora_weights="pissa", use_dora=True))

    assert plan.route == "in-memory"
    assert {step.tensor for step in plan.steps() if step.edits} == set(parameters(modules))
    assert {edit.parameter for edit in plan.edits()} == set(parameters(attention_modules()))


def test_names_and_notes(base: Path, tmp_path: Path) -> None:
    shapes = bert_shapes()
    tensors = {
        key.replace("base_model.model.", "base_model.model._orig_mod.bert."): value
        for key, value in lora_tensors(attention_modules(), shapes).items()
    }
    plan = plan_merge(write_adapter(tmp_path / "other", base, tensors=tensors))

    assert plan.names == "names fit without bert"
    assert any("_orig_mod" in note for note in plan.notes)


def test_two_possible_places_are_none(tmp_path: Path) -> None:
    """A base with two towers, an adapter for one that it does not name: guessing would be wrong half of the time."""
    shapes = {f"{tower}.{name}": shape for tower in ("first", "second") for name, shape in bert_shapes().items()}
    base = write_base(tmp_path / "base", tensors=random_tensors(shapes))

    with pytest.raises(UnusableInput):
        plan_merge(write_adapter(tmp_path / "adapter", base))


def test_sources(base: Path, adapter: Path) -> None:
    plan = plan_merge(adapter)

    assert plan.base.details["architecture"] == "BertModel"
    assert plan.base.details["dtype"] == "F32"
    assert plan.base.nbytes == 4 * plan.base.details["parameters"]
    assert [path.name for path in plan.base.weights] == [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    assert plan.adapter.details["r"] == 4
    assert plan.adapter.details["target_modules"] == ["query", "value"]
    assert (plan.method, plan.peft_type, plan.route) == ("LoRA", "LORA", "streamed")


def test_largest_adapter_tensors_count_as_memory(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    tensors = lora_tensors(attention_modules(), bert_shapes())
    tensors["base_model.model.embeddings.word_embeddings.weight"] = torch.ones(100_000, HIDDEN)
    large = write_adapter(tmp_path / "b", tmp_path / "base", tensors=tensors, modules_to_save=["word_embeddings"])

    assert plan_merge(large).needed_memory >= RUNTIME_MEMORY + 100_000 * HIDDEN * 4


def test_lora_on_a_saved_module_comes_on_top(tmp_path: Path, base: Path) -> None:
    """`base_layer.weight` in the adapter takes the base's place first; the delta is added to it."""
    module = attention_modules()[0]
    adapter = write_adapter(tmp_path / "other", base)
    own = torch.randn(HIDDEN, HIDDEN)
    change_tensors(adapter / "adapter_model.safetensors", {f"base_model.model.{module}.base_layer.weight": own})

    output = merged(adapter)

    from safetensors.torch import load_file

    from helpers.merging import weights

    lora = load_file(adapter / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
    torch.testing.assert_close(
        weights(output)[f"{module}.weight"].double(), own.double() + 2 * b @ a, rtol=1e-5, atol=1e-6
    )


def test_saved_plan_is_readable(adapter: Path) -> None:
    assert json.dumps(plan_merge(adapter).to_dict())


def test_a_single_tensor_without_a_use_is_refused(adapter: Path) -> None:
    """The last line of defence: whatever grouping and placing overlooked."""
    opened = open_adapter(adapter)
    edits = [PlacedEdit("x", edit) for edit in plan_merge(adapter).edits()]
    _check_all_used(opened, edits, ())
    *others, last = sorted(opened.tensors)

    def without_last(item: PlacedEdit) -> PlacedEdit:
        inputs = {name: info for name, info in item.edit.inputs.items() if info.name != last}
        return replace(item, edit=replace(item.edit, inputs=inputs))

    with pytest.raises(UnusableInput, match=f"1 of {len(others) + 1} adapter tensors have no use, such as {last}"):
        _check_all_used(opened, [without_last(item) for item in edits], ())


SIDES = ("query_0_Transformer", "document_0_Transformer")


def write_routed(root: Path, *adapted: str) -> Path:
    """A base with a Router between two transformers, and its adapter, which has `adapted` ones."""
    for side in SIDES:
        write_base(root / "base" / side)
    for side in adapted:
        write_adapter(root / "adapter" / side, root / "base")
    for folder in (root / "base", root / "adapter"):
        write_json(folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.Router"}])
        types = dict.fromkeys(SIDES, "sentence_transformers.models.Transformer")
        write_json(folder / "router_config.json", {"types": types, "structure": {"query": [SIDES[0]]}})
    return root / "adapter"


def test_one_of_two_transformers_is_adapted(tmp_path: Path) -> None:
    """The second of a Router's: it stays in its own folder, and the first is carried as it is."""
    plan = plan_merge(write_routed(tmp_path, SIDES[1]))

    assert [shard.file for shard in plan.shards] == [f"{SIDES[1]}/model.safetensors"]
    assert f"{SIDES[0]}/model.safetensors" in {file.path for file in plan.carried}


def test_quantised_base_behind_a_router(tmp_path: Path) -> None:
    """Refused, because the temporary copies of two transformers are not one model's directory."""
    adapter = write_routed(tmp_path, *SIDES)

    assert len(plan_merge(adapter, base_precision="original").shards) == 2
    with pytest.raises(UnusableInput, match="several adapted transformers and a quantised base") as caught:
        plan_merge(adapter, base_precision="dequantized")
    assert "--base" in caught.value.hint


def test_shared_tensors_that_are_missing(tmp_path: Path, base: Path) -> None:
    modules = attention_modules()
    tensors = {
        f"base_model.model.{module}.vblora_logits_{side}": torch.ones(4, 4, 2) for module in modules for side in "AB"
    }
    config = {"peft_type": "VBLORA", "vector_length": 4, "num_vectors": 2}
    adapter = write_adapter(tmp_path / "adapter", base, tensors=tensors, **config)

    with pytest.raises(UnusableInput, match="has no vblora_vector_bank, which all modules of VB-LoRA share"):
        plan_merge(adapter)
