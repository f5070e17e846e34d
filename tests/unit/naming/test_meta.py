"""The class that loads a model, and where the checkpoint keeps its parameters: asked, and checked number by number."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.files import edit_json, write_json
from helpers.handmade import random_tensors, write_adapter, write_base
from helpers.models import ARCHITECTURES, copy_of, fill_weights, new_folder, plain_base, quiet, split_weights
from ingraft.adapter import open_adapter
from ingraft.base_model import BaseModel, open_base
from ingraft.checkpoint import TensorInfo
from ingraft.errors import UnusableInput
from ingraft.naming import Region, meta
from ingraft.naming.find import find_names
from ingraft.naming.meta import RuntimeModel, meta_names, runtime_model


def opened(folder: Path) -> BaseModel:
    return open_base(open_adapter(write_adapter(new_folder("adapter"), folder)), folder)


def assembled(runtime: RuntimeModel, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The running model's parameters, put together from the regions that the look-up names."""
    found = {}
    for name, regions in runtime.regions.items():
        value = torch.full(runtime.shapes[name], torch.nan)
        for region in regions:
            part = stored[region.tensor].flatten()[slice(*region.elements)].float()
            whole = value if region.expert is None else value[region.expert]
            if region.transposed:
                whole.copy_(part.reshape(whole.T.shape).T)
            else:
                rows = whole[slice(*region.rows)] if whole.ndim else whole
                rows.copy_(part.reshape(rows.shape))
        found[name] = value
    return found


def check(folder: Path, auto: str = "AutoModel") -> RuntimeModel:
    """Every parameter that transformers loads is found, with the numbers that it loads."""
    runtime = runtime_model(opened(folder), trust_remote_code=False)
    stored: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        stored |= load_file(file)
    with quiet():
        model, report = getattr(transformers, auto).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    loaded = {name: value for name, value in model.state_dict().items() if name not in report["missing_keys"]}

    found = assembled(runtime, stored)

    untied = {name for name in loaded if name not in runtime.tied}
    assert untied - found.keys() - runtime.unclear == set()
    for name in found:
        assert found[name].equal(loaded[name]), name
    return runtime


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_plain_models(architecture: str, shards: int) -> None:
    runtime = check(plain_base(architecture, "float32", shards))

    assert runtime.unclear == frozenset()
    assert all(len(regions) == 1 for regions in runtime.regions.values())


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", "AutoModelForMaskedLM"),
        ("xlm-roberta", "AutoModelForSequenceClassification"),
        ("modernbert", "AutoModelForMaskedLM"),
        ("qwen3", "AutoModelForCausalLM"),
        ("gpt2", "AutoModelForCausalLM"),
    ],
)
def test_models_that_were_saved_with_a_head(architecture: str, head: str) -> None:
    check(plain_base(architecture, head=head))


@functools.cache
def experts_base(kind: str, shards: int = 1) -> Path:
    """A mixture of experts: per-expert tensors on disk, stacks at run time."""
    arguments: dict[str, Any] = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32,
    }  # fmt: skip
    if kind == "mixtral":
        config = transformers.MixtralConfig(**arguments, num_local_experts=3, num_experts_per_tok=2)
    else:
        config = transformers.Qwen3MoeConfig(
            **arguments, num_experts=12, num_experts_per_tok=2, moe_intermediate_size=12, decoder_sparse_step=1
        )
    folder = new_folder(kind)
    model = transformers.AutoModel.from_config(config)
    fill_weights(model)
    model.save_pretrained(folder)
    if shards > 1:
        split_weights(folder, shards)
    return folder


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe"])
def test_experts(kind: str, shards: int) -> None:
    """Each expert's matrices lie in tensors of their own, in whatever shard; the look-up says where."""
    folder = experts_base(kind, shards)
    runtime = check(folder)

    assert runtime.unclear == frozenset()
    stacks = {name: regions for name, regions in runtime.regions.items() if len(runtime.shapes[name]) == 3}
    assert len(stacks) == 4
    for name, regions in stacks.items():
        assert {region.expert for region in regions} == set(range(runtime.shapes[name][0])), name


def test_ties() -> None:
    """Asked for as what loads it for sparse embeddings: BERT's decoder shares the embedding."""
    folder = copy_of(plain_base("bert", head="AutoModelForMaskedLM"))
    write_json(folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.MLMTransformer"}])
    write_json(folder / "sentence_bert_config.json", {"transformer_task": "fill-mask"})

    runtime = check(folder, "AutoModelForMaskedLM")

    assert runtime.class_name == "BertForMaskedLM"
    assert runtime.tied["cls.predictions.decoder.weight"] == "bert.embeddings.word_embeddings.weight"


def test_kinds() -> None:
    runtime = runtime_model(opened(plain_base("gpt2")), trust_remote_code=False)

    assert runtime.kinds["h.0.attn.c_proj"] == "conv1d"
    assert runtime.kinds["wte"] == "embedding"
    assert runtime.kinds["h.0.ln_1"] == "norm"
    assert runtime_model(opened(plain_base("bert")), trust_remote_code=False).kinds["pooler.dense"] == "linear"


def test_names_with_a_prefix() -> None:
    runtime = runtime_model(opened(plain_base("bert", head="AutoModelForMaskedLM")), trust_remote_code=False)
    query = "encoder.layer.0.attention.self.query"

    for prefix in ("", "bert."):
        names = meta_names([f"{prefix}{query}.weight"], [f"{prefix}{query}.bias", "none.bias"], runtime)
        (region,) = names.regions[f"{prefix}{query}.weight"]
        assert region.tensor == f"bert.{query}.weight"
        assert names.missing == ("none.bias",)
        assert names.kinds[f"{prefix}{query}"] == "linear"


def test_legacy_layer_norms() -> None:
    folder = copy_of(plain_base("bert"))
    file = folder / "model.safetensors"
    legacy = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    save_file(legacy, file, {"format": "pt"})

    runtime = check(folder)

    (region,) = runtime.regions["embeddings.LayerNorm.weight"]
    assert region.tensor == "embeddings.LayerNorm.gamma"


def test_config_that_no_class_accepts() -> None:
    folder = copy_of(plain_base("bert"))
    edit_json(folder / "config.json", hidden_size=30)

    with pytest.raises(UnusableInput, match="transformers cannot build"):
        runtime_model(opened(folder), trust_remote_code=False)


def test_unknown_model_type() -> None:
    folder = copy_of(plain_base("bert"))
    edit_json(folder / "config.json", model_type="nothing-like-it")

    with pytest.raises(UnusableInput, match="transformers cannot build") as refused:
        runtime_model(opened(folder), trust_remote_code=False)

    assert "\n" not in refused.value.message


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    folder = copy_of(plain_base("bert"))
    marker = tmp_path / "marker"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')")
    edit_json(
        folder / "config.json", auto_map={"AutoModel": "own.Own", "AutoConfig": "own.OwnConfig"}, model_type="own"
    )

    with pytest.raises(UnusableInput, match="--trust-remote-code"):
        runtime_model(opened(folder), trust_remote_code=False)

    assert not marker.exists()


# Who is asked


@pytest.mark.parametrize(
    ("parameter", "asked"),
    [
        ("encoder.layer.0.attention.self.query.weight", False),
        ("bert.encoder.layer.0.attention.self.query.weight", False),
        ("embeddings.word_embeddings.weight", True),
        ("encoder.layer.7.attention.self.query.weight", True),
    ],
)
def test_asked_where_names_do_not_settle_it(parameter: str, asked: bool) -> None:
    names = find_names([parameter], [], opened(plain_base("bert")))

    assert (names.runtime is not None or parameter in names.missing) == asked


@pytest.mark.parametrize("stored", ["lm_head", "decoder", "embed_out", "output_embeddings"])
def test_asked_whether_a_stored_output_layer_is_tied(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored or not, an output layer may get the embedding's numbers when the model is loaded."""
    base = write_base(tmp_path / "base", tensors=random_tensors({f"{stored}.weight": (40, 16), "x.weight": (16, 16)}))

    def asked(*arguments: Any, **options: Any) -> Any:
        raise LookupError

    monkeypatch.setattr(meta, "runtime_model", asked)

    assert find_names(["x.weight"], [], opened(base)).missing == ()
    with pytest.raises(LookupError):
        find_names([f"{stored}.weight"], [], opened(base))


def test_class_with_a_head_is_asked_last() -> None:
    """Targets in the head exist in the class that config.json names only."""
    model = opened(plain_base("bert", head="AutoModelForMaskedLM"))
    parameter = "cls.predictions.transform.dense.weight"

    names = find_names(["bert.encoder.layer.0.attention.self.query.weight", parameter], [], model)

    assert names.missing == ()
    (region,) = names.regions[parameter]
    assert region.tensor == parameter


def test_name_that_transformers_cannot_sort(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", tensors=random_tensors({"encoder.layer.²": (2, 2)}))

    with pytest.raises(UnusableInput, match=r"cannot read the names of the tensors of .*²"):
        runtime_model(opened(base), trust_remote_code=False)


def test_rows_and_tensors_are_told_apart_by_large_numbers() -> None:
    """A vocabulary has hundreds of thousands of rows, the stacks of a layer's experts more."""
    rows = (1 << 20) + 5
    before = TensorInfo("before", "F32", (rows, 2), Path("x"), 0, 8 * rows)
    stored = [before, TensorInfo("w", "F32", (2, 2), Path("x"), 8 * rows, 8 * rows + 16)]
    numbers = [meta._row_numbers(number, info) for number, info in enumerate(stored)]

    found = meta._read_numbers(torch.cat([numbers[0][-2:], numbers[1]]), (4, 2), stored)

    assert found == (Region("before", (2 * rows - 4, 2 * rows), (0, 2)), Region("w", (0, 4), (2, 4)))


def test_matrix_that_is_turned_while_it_is_loaded() -> None:
    """Row numbers that come out side by side: the stored rows are the parameter's columns."""
    stored = [TensorInfo("before", "F32", (4, 4), Path("x"), 0, 64), TensorInfo("w", "F32", (3, 2), Path("x"), 64, 88)]
    numbers = meta._row_numbers(1, stored[1])

    assert meta._read_numbers(numbers, (3, 2), stored) == (Region("w", (0, 6), (0, 3)),)
    assert meta._read_numbers(numbers.T, (2, 3), stored) == (Region("w", (0, 6), (0, 3), transposed=True),)
    assert meta._read_numbers(numbers, (2, 3), stored) is None
