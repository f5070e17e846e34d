"""Two directories side by side: what is matched with what, and what counts as a difference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.files import edit_json
from helpers.handmade import (
    bert_shapes,
    change_tensors,
    random_tensors,
    write_adapter,
    write_base,
    write_modules,
    write_shards,
)
from ingraft.diff import ModelDiff, compare, compare_models, numbers, rank
from ingraft.diff.stored import open_model
from ingraft.errors import UnusableInput

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_base(tmp_path / "model")
    write_modules(folder, dense=True)
    return folder


@pytest.fixture
def twin(model: Path) -> Path:
    return Path(shutil.copytree(model, model.parent / "twin"))


def differing(found: ModelDiff) -> tuple[dict[str, str], dict[str, str]]:
    tensors = {tensor.name: tensor.state for tensor in found.tensors if tensor.state != "equal"}
    return tensors, {file.path: file.state for file in found.files if file.state != "equal"}


def test_a_copy_is_equal(model, twin) -> None:
    found = compare_models(model, twin)

    assert found.equal
    assert {tensor.name for tensor in found.tensors} == {
        *bert_shapes(),
        "2_Dense/linear.weight",
        "2_Dense/linear.bias",
    }
    assert {file.path for file in found.files} == {
        file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file()
    }


def test_a_changed_tensor(model, twin) -> None:
    before = load_file(model / "model.safetensors")[QUERY]
    after = before + torch.outer(torch.ones(16), torch.arange(16.0))
    change_tensors(twin / "model.safetensors", {QUERY: after})

    found = compare_models(model, twin)

    assert not found.equal
    assert differing(found) == ({QUERY: "changed"}, {"model.safetensors": "changed"})
    tensor = next(tensor for tensor in found.tensors if tensor.name == QUERY)
    assert tensor.change is not None
    assert tensor.rank is not None
    assert tensor.change.norm == pytest.approx(float((after - before).norm()), rel=1e-6)
    assert (tensor.change.changed, tensor.change.largest) == (240, pytest.approx(15.0))
    assert tensor.rank.value == 1


def test_tensors_of_another_module(model, twin) -> None:
    change_tensors(twin / "2_Dense" / "model.safetensors", {"linear.bias": torch.ones(4)})

    assert differing(compare_models(model, twin)) == (
        {"2_Dense/linear.bias": "changed"},
        {"2_Dense/model.safetensors": "changed"},
    )


def test_only_in_one(model, twin) -> None:
    change_tensors(twin / "model.safetensors", {QUERY: None, "extra.weight": torch.ones(2)})
    (twin / "modules.json").rename(twin / "renamed.json")

    tensors, files = differing(compare_models(model, twin))

    # Without modules.json the Dense module is a file like any other, and no module.
    assert tensors.pop("2_Dense/linear.weight") == tensors.pop("2_Dense/linear.bias") == "only in a"
    assert tensors == {QUERY: "only in a", "extra.weight": "only in b"}
    assert files["modules.json"] == "only in a"
    assert files["renamed.json"] == "only in b"


def test_shapes_and_dtypes(model, twin) -> None:
    change_tensors(
        twin / "model.safetensors",
        {
            QUERY: torch.ones(16, 8),
            "pooler.dense.bias": load_file(model / "model.safetensors")["pooler.dense.bias"].double(),
        },
    )

    found = {tensor.name: tensor for tensor in compare_models(model, twin).tensors}

    assert found[QUERY].state == "changed"
    assert found[QUERY].change is None
    assert (found[QUERY].a, found[QUERY].b) == (("F32", (16, 16)), ("F32", (16, 8)))
    widened = found["pooler.dense.bias"]
    assert widened.state == "changed"
    assert widened.change is not None
    assert (widened.change.changed, widened.change.norm) == (0, 0.0)


def test_dtypes_that_have_no_numbers_are_compared_as_bytes(model, twin) -> None:
    values = torch.tensor([1 + 2j, 3])
    change_tensors(model / "model.safetensors", {"c": values, "d": values.clone()})
    change_tensors(twin / "model.safetensors", {"c": values, "d": values + 1})

    found = compare_models(model, twin)

    assert differing(found)[0] == {"d": "changed"}
    assert next(tensor for tensor in found.tensors if tensor.name == "d").change is None


def test_a_nan_leaves_the_rank_open(model, twin) -> None:
    value = load_file(model / "model.safetensors")[QUERY]
    value[0, 0] = torch.nan
    change_tensors(twin / "model.safetensors", {QUERY: value})

    found = compare_models(model, twin)

    tensor = next(tensor for tensor in found.tensors if tensor.name == QUERY)
    assert tensor.rank is None
    assert tensor.change is not None
    assert tensor.change.not_finite == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_other_shards_hold_the_same_tensors(model, twin) -> None:
    write_shards(twin, load_file(twin / "model.safetensors"), 3)
    (twin / "model.safetensors").unlink()

    tensors, files = differing(compare_models(model, twin))

    assert tensors == {}
    assert files == {
        "model.safetensors": "only in a",
        "model.safetensors.index.json": "only in b",
        **{f"model-0000{n}-of-00003.safetensors": "only in b" for n in (1, 2, 3)},
    }


def test_the_transformer_is_found_in_a_folder_of_its_own(model, twin) -> None:
    (twin / "0_Transformer").mkdir()
    for name in ("model.safetensors", "config.json", "sentence_bert_config.json"):
        (twin / name).rename(twin / "0_Transformer" / name)
    modules = json.loads((twin / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (twin / "modules.json").write_text(json.dumps(modules))

    tensors, files = differing(compare_models(model, twin))

    assert tensors == {}
    assert files["0_Transformer/model.safetensors"] == "only in b"


def test_pickled_weights_are_compared_as_tensors(model, twin) -> None:
    tensors = load_file(twin / "model.safetensors")
    tensors[QUERY] = tensors[QUERY] * 2
    torch.save(tensors, twin / "pytorch_model.bin")
    (twin / "model.safetensors").unlink()

    assert differing(compare_models(model, twin)) == (
        {QUERY: "changed"},
        {"model.safetensors": "only in a", "pytorch_model.bin": "only in b"},
    )


def test_the_header_of_a_weight_file_counts(model, twin) -> None:
    save_file(load_file(twin / "model.safetensors"), twin / "model.safetensors", metadata={"format": "np"})

    found = compare_models(model, twin)

    assert differing(found) == ({}, {"model.safetensors": "changed"})
    assert next(f for f in found.files if f.state == "changed").detail == "the same tensors; the header differs"


def test_two_adapters(tmp_path) -> None:
    first = write_adapter(tmp_path / "first", None)
    second = write_adapter(tmp_path / "second", None, alpha=16)

    assert differing(compare_models(first, second)) == ({}, {"adapter_config.json": "changed"})


def test_what_a_config_says_otherwise(model, twin) -> None:
    edit_json(twin / "config.json", hidden_size=17, vocab_size=None, dtype="bfloat16", num_labels=3)

    found = compare_models(model, twin)

    detail = next(file.detail for file in found.files if file.state == "changed")
    assert detail == 'vocab_size 40 → (none), hidden_size 16 → 17, dtype (none) → "bfloat16" and 1 more'


def test_hidden_directories_are_left_out(model, twin) -> None:
    (twin / ".cache").mkdir()
    (twin / ".cache" / "lock").write_text("x")

    assert compare_models(model, twin).equal


def test_a_file_of_the_same_length(model, twin) -> None:
    text = (twin / "modules.json").read_text()
    (twin / "modules.json").write_text(
        text.replace("sentence_transformers.models.Pooling", "sentence_transformers.models.Poolinh")
    )

    assert differing(compare_models(model, twin)) == ({}, {"modules.json": "changed"})


def test_what_is_no_model(tmp_path, model) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UnusableInput, match=r"empty holds no weights") as error:
        compare_models(model, tmp_path / "empty")
    assert "Name a model's directory" in error.value.hint
    with pytest.raises(UnusableInput, match=r"holds no weights") as error:
        compare_models(model.parent, model)
    assert "model" in error.value.hint
    with pytest.raises(UnusableInput, match="does not exist"):
        compare_models(model, tmp_path / "gone")


def test_unsound_weights_are_refused(model, twin) -> None:
    path = twin / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])

    with pytest.raises(UnusableInput, match="cut off"):
        compare_models(model, twin)


def test_memory_is_bounded_by_a_block(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(numbers, "CHUNK_ELEMENTS", 1000)
    monkeypatch.setattr(rank, "CHUNK_ELEMENTS", 1000)
    asked: list[int] = []

    def counted(*arguments, **named):
        asked.append(arguments[3])
        return load_part(*arguments, **named)

    load_part = numbers.load_part
    monkeypatch.setattr(numbers, "load_part", counted)
    tensors = random_tensors({"encoder.weight": (500, 100)})
    a = write_base(tmp_path / "a", tensors=tensors)
    b = write_base(tmp_path / "b", tensors={name: tensor + 0.1 for name, tensor in tensors.items()})

    assert not compare_models(a, b).equal
    assert max(asked) == 4000


def test_progress_is_told_all_bytes(model, twin) -> None:
    told: list[int] = []
    totals: list[int] = []

    def begin(total: int):
        totals.append(total)
        return told.append

    compare_models(model, twin, progress=begin)

    assert totals == [sum(info.nbytes for info in open_model(model).tensors.values())]
    assert sum(told) == totals[0]


def test_threads_are_given_back(model, twin) -> None:
    before = torch.get_num_threads()

    compare.compare_models(model, twin)

    assert torch.get_num_threads() == before
