"""`merge --layout`: what older readers take, computes exactly what the files as they are compute."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from torch import nn

from helpers.files import edit_json, snapshot, stored_tensors
from helpers.merging import cli, merged
from helpers.models import (
    HIDDEN,
    TEXTS,
    config_of,
    copy_of,
    fill_weights,
    lora_config,
    moved_into_module_folder,
    new_folder,
    plain_base,
    quiet,
    sentence_adapter,
    sentence_base,
    tokenizer,
    train_a_little,
)

PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3]), (TEXTS[0], TEXTS[3])]
LONG = " ".join(TEXTS * 20)  # longer than every limit


@functools.cache
def bert_with_dense() -> Path:
    return sentence_adapter(sentence_base("bert", dense=True), lora_config("bert"))


@functools.cache
def decoder_with_last_token() -> Path:
    """A rotary base that is not the default, so that who does not read it computes something else."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain = new_folder("qwen3")
    config = config_of(
        "qwen3", rope_parameters={"rope_type": "default", "rope_theta": 300.0}, max_position_embeddings=50
    )
    model = transformers.AutoModel.from_config(config)
    fill_weights(model)
    model.save_pretrained(plain)
    tokenizer().save_pretrained(plain)
    base = new_folder("qwen3-sentence")
    modules: list[nn.Module] = [Transformer(str(plain)), Pooling(HIDDEN, "lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(base))
    return sentence_adapter(base, lora_config("qwen3"))


def adapter_of_class(model_class: str, head: str) -> Path:
    """An adapter on a CrossEncoder or SparseEncoder."""
    import sentence_transformers

    base, adapter = new_folder("base"), new_folder("adapter")
    load = getattr(sentence_transformers, model_class)
    with quiet():
        load(str(plain_base("bert", head=head)), device="cpu").save_pretrained(str(base))
        model = load(str(base), device="cpu")
        model.add_adapter(lora_config("bert", target_modules=["query", "value"]))
        train_a_little(model[0])
        model.save_pretrained(str(adapter))
    return adapter


@functools.cache
def cross_encoder() -> Path:
    adapter = adapter_of_class("CrossEncoder", "AutoModelForSequenceClassification")
    edit_json(adapter / "config_sentence_transformers.json", activation_fn="torch.nn.modules.activation.Tanh")
    return adapter


@functools.cache
def sparse_encoder() -> Path:
    return adapter_of_class("SparseEncoder", "AutoModelForMaskedLM")


@functools.cache
def router() -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def route(architecture: str) -> list[nn.Module]:
        return [Transformer(str(plain_base(architecture))), Pooling(HIDDEN, "mean")]

    base, adapter = new_folder("router"), new_folder("router-adapter")
    with quiet():
        router = Router.for_query_document(route("bert"), route("mpnet"))
        SentenceTransformer(modules=[router, Normalize()], device="cpu").save_pretrained(str(base))
        model = SentenceTransformer(str(base), device="cpu")
        for number, (name, architecture) in enumerate([("query", "bert"), ("document", "mpnet")]):
            transformer = model[0].sub_modules[name][0]
            transformer.model.add_adapter(lora_config(architecture))
            train_a_little(transformer, seed=number)
        model.save_pretrained(str(adapter))
    for transformer in adapter.glob("*/adapter_config.json"):
        edit_json(transformer, base_model_name_or_path=str(base))
    return adapter


@functools.cache
def several_poolings() -> Path:
    adapter = copy_of(sentence_adapter(sentence_base("bert"), lora_config("bert")))
    edit_json(adapter / "1_Pooling" / "config.json", pooling_mode=["cls", "max", "mean"])
    return adapter


ADAPTERS: dict[str, Callable[[], Path]] = {
    "bert": lambda: sentence_adapter(sentence_base("bert"), lora_config("bert")),
    "xlm-roberta": lambda: sentence_adapter(sentence_base("xlm-roberta"), lora_config("xlm-roberta")),
    "modernbert": lambda: sentence_adapter(sentence_base("modernbert"), lora_config("modernbert")),
    "in a folder": lambda: moved_into_module_folder(sentence_adapter(sentence_base("bert"), lora_config("bert"))),
    "decoder": decoder_with_last_token,
    "dense": bert_with_dense,
    "several poolings": several_poolings,
    "cross-encoder": cross_encoder,
    "sparse": sparse_encoder,
    "router": router,
}


def answers(folder: Path, name: str) -> tuple[Any, ...]:
    """What the installed Sentence Transformers makes of the model: outputs, and what was read from its files."""
    import sentence_transformers

    classes = {"cross-encoder": "CrossEncoder", "sparse": "SparseEncoder"}
    with quiet():
        model = getattr(sentence_transformers, classes.get(name, "SentenceTransformer"))(str(folder), device="cpu")
        if name == "cross-encoder":
            return model.predict([*PAIRS, (LONG, LONG)]), model.max_length, type(model.activation_fn)
        if name == "router":
            return tuple(model.encode([*TEXTS, LONG], task=task) for task in ("query", "document"))
        rows = model.encode([*TEXTS, LONG])
        rows = rows.to_dense().numpy() if name == "sparse" else rows
    return rows, model.max_seq_length, type(model.tokenizer), model.tokenizer.special_tokens_map


def json_of(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("name", ADAPTERS)
def test_all_layouts_compute_the_same(name: str) -> None:
    adapter = ADAPTERS[name]()
    kept = merged(adapter, "--layout", "keep")
    unchanged = answers(kept, name)

    for layout in ("portable", "legacy"):
        output = merged(adapter, "--layout", layout)
        assert stored_tensors(output) == stored_tensors(kept)
        assert snapshot(output) != snapshot(kept)
        for found, expected in zip(answers(output, name), unchanged, strict=True):
            if isinstance(expected, numpy.ndarray):
                assert expected.any()
                numpy.testing.assert_array_equal(found, expected)
            else:
                assert found == expected


@pytest.mark.parametrize("name", ADAPTERS)
def test_portable_only_adds(name: str) -> None:
    """Whoever knows the newer names finds them with the values that they had."""
    adapter = ADAPTERS[name]()
    kept, output = merged(adapter, "--layout", "keep"), merged(adapter)

    for path in kept.rglob("*config*.json"):
        before, after = (json.loads((root / path.relative_to(kept)).read_text()) for root in (kept, output))
        if path.name not in ("tokenizer_config.json", "router_config.json"):
            assert {key: after.get(key) for key in before} == before, path.name
    kinds = [[entry["type"].rsplit(".", 1)[-1] for entry in json_of(root, "modules.json")] for root in (kept, output)]
    assert kinds[0] == kinds[1]


def test_files_as_older_releases_take_them() -> None:
    output = merged(bert_with_dense(), "--layout", "legacy")

    types = [module["type"] for module in json_of(output, "modules.json")]
    assert types == [
        f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    # 3.4 calls Transformer(**config), Pooling(**config) and Dense(**config): another key is a TypeError there.
    assert json_of(output, "sentence_bert_config.json") == {"max_seq_length": 60, "do_lower_case": False}
    assert json_of(output, "1_Pooling/config.json") == {
        "word_embedding_dimension": HIDDEN,
        "include_prompt": True,
        "pooling_mode": "mean",
        "pooling_mode_cls_token": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": False,
    }
    assert json_of(output, "2_Dense/config.json").keys() == {
        "in_features", "out_features", "bias", "activation_function",
    }  # fmt: skip
    assert json_of(output, "config.json")["torch_dtype"] == "float32"
    assert json_of(output, "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert json_of(output, "special_tokens_map.json") == {
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    }  # fmt: skip


def test_rotary_base_under_its_older_name() -> None:
    """transformers 4 knows no `rope_parameters` and would take 10,000 without a word."""
    output = merged(decoder_with_last_token())

    config = json_of(output, "config.json")
    assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (300.0, 300.0)
    assert json_of(output, "1_Pooling/config.json")["pooling_mode_lasttoken"] is True
    assert json_of(output, "sentence_bert_config.json")["max_seq_length"] == 50


def test_sparse_encoder_under_its_older_names() -> None:
    output = merged(sparse_encoder(), "--layout", "legacy")

    types = [module["type"] for module in json_of(output, "modules.json")]
    assert types == [f"sentence_transformers.sparse_encoder.models.{k}" for k in ("MLMTransformer", "SpladePooling")]
    assert json_of(output, "sentence_bert_config.json").keys() == {"max_seq_length", "do_lower_case"}
    assert "word_embedding_dimension" in json_of(output, "1_SpladePooling/config.json")


def test_router_under_its_older_names() -> None:
    output = merged(router(), "--layout", "legacy")

    assert json_of(output, "modules.json")[0]["type"] == "sentence_transformers.models.Router"
    types = json_of(output, "router_config.json")["types"]
    assert "route_mappings" not in json_of(output, "router_config.json")["parameters"]
    assert set(types.values()) == {f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")}


@pytest.mark.parametrize("layout", ["portable", "legacy", "keep"])
def test_a_portable_merge_is_proven_and_merged_into_again(layout: str) -> None:
    """`verify` finds out by itself how the files were written; a merged sparse encoder still has its head."""
    adapter = sparse_encoder()
    output = merged(adapter, "--layout", layout)

    run = cli("verify", output, "--adapter", adapter)

    assert (run.code, run.err) == (0, ""), run.out
    again = merged(adapter, "--base", output, "--layout", layout)
    assert snapshot(again).keys() == snapshot(output).keys()


def test_verify_names_the_changed_file() -> None:
    adapter = bert_with_dense()
    output = merged(adapter)
    edit_json(output / "1_Pooling" / "config.json", pooling_mode="cls")

    run = cli("verify", output, "--adapter", adapter)

    assert run.code == 1
    assert "1_Pooling/config.json" in " ".join(run.out.split())


def test_plan_says_what_it_rewrites(tmp_path: Path) -> None:
    adapter = bert_with_dense()

    portable = cli("merge", adapter, tmp_path / "out", "--dry-run")
    kept = cli("merge", adapter, tmp_path / "out", "--dry-run", "--layout", "keep")

    words = "6 files in words that older readers know too: "
    assert words in portable.out
    assert "older readers" not in kept.out
    listed = portable.out.split(words)[1].splitlines()[0].split(", ")
    plan = json.loads(cli("merge", adapter, tmp_path / "out", "--dry-run", "--format", "json").out)["plan"]
    assert [file["path"] for file in plan["written"] if file["portable"]] == listed
    assert all(file["reason"] for file in plan["written"])


def test_layout_of_a_live_model(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from ingraft import merge_trained

    with quiet():
        model = SentenceTransformer(str(sentence_base("bert")), device="cpu")
        model.add_adapter(lora_config("bert"))
        train_a_little(model[0])
        merge_trained(model, tmp_path / "out", layout="legacy")

    types = [module["type"] for module in json_of(tmp_path / "out", "modules.json")]
    assert types == [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    assert "base.modules" in (tmp_path / "out-adapter" / "modules.json").read_text()
