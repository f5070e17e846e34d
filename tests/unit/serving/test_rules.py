"""The table of servers, rule by rule, on directories that keep all rules but one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.files import edit_json, write_json
from helpers.handmade import write_base
from ingraft.errors import UnusableInput
from ingraft.portable.modules import POOLING_FLAGS
from ingraft.serving import examine, rewrite
from ingraft.serving.doctor import ALL, SERVERS
from ingraft.serving.facts import read_facts
from ingraft.serving.rule import LEGACY, PORTABLE

_ST = "sentence_transformers"
Change = Callable[[Path], Any]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A BERT with mean pooling and Normalize that every server takes."""
    root = write_base(tmp_path / "model", config={"hidden_act": "relu"}, sentence_transformers=True)
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    write_modules(root, [(f"{_ST}.models.{kind}", path) for kind, path in kinds])
    write_pooling(root, mode="mean")
    write_json(root / "tokenizer.json", {"model": {}})
    write_json(
        root / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "model_max_length": 32, "pad_token": "[PAD]"},
    )
    write_json(root / "special_tokens_map.json", {"pad_token": "[PAD]"})
    edit_json(root / "config_sentence_transformers.json", prompts={})
    (root / "onnx").mkdir()
    (root / "onnx" / "model.onnx").write_bytes(b"")
    return root


def write_modules(root: Path, modules: list[tuple[str, str]]) -> None:
    write_json(
        root / "modules.json",
        [{"idx": n, "name": str(n), "path": path, "type": kind} for n, (kind, path) in enumerate(modules)],
    )


def write_pooling(root: Path, *modes: str, mode: str = "", **more: Any) -> None:
    flags = {flag: name in (*modes, mode) for name, flag in POOLING_FLAGS.items()}
    write_json(root / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, **flags, **more})


def add_dense(root: Path, **config: Any) -> None:
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Normalize", "3_Normalize")]
    write_modules(root, [(f"{_ST}.models.{kind}", path) for kind, path in kinds])
    settings = {
        "in_features": 16,
        "out_features": 4,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(root / "2_Dense" / "config.json", {**settings, **config})


def newer_types(root: Path) -> None:
    write_modules(
        root,
        [
            (f"{_ST}.base.modules.transformer.Transformer", ""),
            (f"{_ST}.{_ST[:-1]}.modules.pooling.Pooling", "1_Pooling"),
            (f"{_ST}.base.modules.normalize.Normalize", "2_Normalize"),
        ],
    )


def newer_pooling(root: Path) -> None:
    write_json(root / "1_Pooling" / "config.json", {"embedding_dimension": 16, "pooling_mode": "mean"})


def config(**changes: Any) -> Change:
    return lambda root: edit_json(root / "config.json", **changes)


def sentence(**changes: Any) -> Change:
    return lambda root: edit_json(root / "sentence_bert_config.json", **changes)


def tokenizer(**changes: Any) -> Change:
    return lambda root: edit_json(root / "tokenizer_config.json", **changes)


def settings(**changes: Any) -> Change:
    return lambda root: edit_json(root / "config_sentence_transformers.json", **changes)


def pooling(*modes: str, **more: Any) -> Change:
    return lambda root: write_pooling(root, *modes, **more)


def without(name: str) -> Change:
    return lambda root: (root / name).unlink()


def dense(**more: Any) -> Change:
    return lambda root: add_dense(root, **more)


def without_normalize(root: Path) -> None:
    write_modules(root, [(f"{_ST}.models.Transformer", ""), (f"{_ST}.models.Pooling", "1_Pooling")])


def layer_norm(root: Path) -> None:
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("LayerNorm", "2_LayerNorm"), ("Normalize", "3_Normalize")]
    write_modules(root, [(f"{_ST}.models.{kind}", path) for kind, path in kinds])


def in_a_folder(root: Path) -> None:
    folder = root / "0_Transformer"
    folder.mkdir()
    names = ["config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in names:
        (root / name).rename(folder / name)
    kinds = [("Transformer", folder.name), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    write_modules(root, [(f"{_ST}.models.{kind}", path) for kind, path in kinds])


def router(root: Path) -> None:
    in_a_folder(root)
    write_modules(root, [(f"{_ST}.models.Router", ""), (f"{_ST}.models.Normalize", "2_Normalize")])
    names = {"0_Transformer": f"{_ST}.models.Transformer", "1_Pooling": f"{_ST}.models.Pooling"}
    write_json(root / "router_config.json", {"types": names, "structure": {"query": list(names)}, "parameters": {}})


def route_mappings(root: Path) -> None:
    edit_json(root / "router_config.json", parameters={"route_mappings": {}})


def pooling_elsewhere(root: Path) -> None:
    (root / "1_Pooling").rename(root / "pool")
    write_modules(root, [(f"{_ST}.models.Transformer", ""), (f"{_ST}.models.Pooling", "pool")])


def several_pickles(root: Path) -> None:
    (root / "model.safetensors").unlink()
    files = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    for file in files:
        (root / file).write_bytes(b"")
    write_json(root / "pytorch_model.bin.index.json", {"weight_map": dict(zip("ab", files, strict=True))})


def dense_behind_an_unknown_type(root: Path) -> None:
    """text-embeddings-inference gives up on modules.json as a whole."""
    add_dense(root)
    text = (root / "modules.json").read_text()
    newer = f"{_ST}.base.modules.normalize.Normalize"
    (root / "modules.json").write_text(text.replace(f"{_ST}.models.Normalize", newer))


def both(*changes: Change) -> Change:
    def change(root: Path) -> None:
        for one in changes:
            one(root)

    return change


def of_class(name: str) -> Change:
    return settings(model_type=name)


ROPE = {"rope_type": "default", "rope_theta": 1e6}
OLDER = (f"{_ST.replace('_', '-')}==3.4", f"{_ST.replace('_', '-')}==5.1", "infinity")
# What is changed → what it makes of each server that minds; all others are as before.
CASES: dict[str, tuple[Change, dict[str, str]]] = {
    "newer types": (newer_types, {**dict.fromkeys(OLDER, "refuses"), "vllm==0.23": "differs", "llama.cpp": "note"}),
    "newer pooling": (
        newer_pooling,
        {**dict.fromkeys((*OLDER, "tei"), "refuses"), "vllm==0.23": "differs", "llama.cpp": "note"},
    ),
    "keys of 5.4": (sentence(transformer_task="feature-extraction"), dict.fromkeys(OLDER, "refuses")),
    "chat messages": (
        sentence(modality_config={"text": {}, "message": {}}),
        dict.fromkeys(OLDER, "refuses"),
    ),
    "list of modes": (
        lambda root: write_pooling(root, "cls", "mean", pooling_mode=["cls", "mean"]),
        {**dict.fromkeys(OLDER, "refuses"), **dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs")},
    ),
    "several flags": (pooling("cls", "max"), dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs")),
    "max": (pooling("max"), {"tei": "refuses", "vllm": "differs", "fastembed": "refuses", "llama.cpp": "refuses"}),
    "mean over root": (
        pooling("mean_sqrt_len_tokens"), {"tei": "refuses", "fastembed": "refuses", "llama.cpp": "refuses"},
    ),
    "lasttoken of an encoder": (pooling("lasttoken"), {"tei": "refuses"}),
    "without the prompt": (
        lambda root: write_pooling(root, "mean", include_prompt=False),
        dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs"),
    ),
    "no pooling": (without("1_Pooling/config.json"), {"tei": "differs"}),
    "list in another order": (
        lambda root: write_pooling(root, "cls", "mean", pooling_mode=["mean", "cls"]),
        {**dict.fromkeys(OLDER, "refuses"), **dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs")},
    ),
    "no length": (sentence(max_seq_length=None), {"tei": "refuses"}),
    "shorter length": (sentence(max_seq_length=16), {"fastembed": "differs", "vllm": "note", "llama.cpp": "note"}),
    "lower case": (
        sentence(do_lower_case=True), dict.fromkeys(("tei", "fastembed", "llama.cpp"), "differs"),
    ),
    "newer tokenizer": (tokenizer(tokenizer_class="TokenizersBackend"), dict.fromkeys(OLDER, "refuses")),
    "list of tokens": (tokenizer(extra_special_tokens=["<a>"]), dict.fromkeys(OLDER, "refuses")),
    "no limit": (tokenizer(model_max_length=int(1e30)), {"fastembed": "refuses"}),
    "rotary base": (config(rope_parameters=ROPE), dict.fromkeys(OLDER, "differs")),
    "both rotary bases": (config(rope_parameters=ROPE, rope_theta=1e6), {}),
    "scaled rotary": (
        config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}),
        dict.fromkeys(OLDER, "differs"),
    ),
    "no tokenizer.json": (without("tokenizer.json"), {"tei": "refuses", "fastembed": "refuses"}),
    "no special_tokens_map.json": (without("special_tokens_map.json"), {"fastembed": "refuses"}),
    "no onnx": (without("onnx/model.onnx"), {"fastembed": "refuses"}),
    "no normalize": (
        without_normalize, {"infinity": "differs", "tei": "note", "llama.cpp": "note"},
    ),
    "layer norm": (layer_norm, dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs")),
    "prompts": (
        settings(prompts={"query": "q: ", "document": ""}),
        dict.fromkeys(("tei", "vllm", "infinity", "fastembed", "llama.cpp"), "note"),
    ),
    "default prompt": (settings(default_prompt_name="query"), {"tei": "note"}),
    "dense": (dense(), dict.fromkeys(("fastembed", "llama.cpp"), "differs")),
    "dense with relu": (
        dense(activation_function="torch.nn.modules.activation.ReLU"),
        {"tei": "refuses", "fastembed": "differs", "llama.cpp": "differs"},
    ),
    "dense with mish": (
        dense(activation_function="torch.nn.modules.activation.Mish"),
        {"tei": "refuses", **dict.fromkeys(("vllm", "fastembed", "llama.cpp"), "differs")},
    ),
    "dense with residual": (
        dense(use_residual=True),
        {**dict.fromkeys(OLDER, "refuses"), **dict.fromkeys(("tei", "vllm", "fastembed", "llama.cpp"), "differs")},
    ),
    "dense as 5.4 writes it": (
        dense(module_input_name="sentence_embedding", module_output_name="sentence_embedding"),
        {**dict.fromkeys(OLDER, "refuses"), **dict.fromkeys(("fastembed", "llama.cpp"), "differs")},
    ),
    "gelu": (config(hidden_act="gelu"), {"tei": "note"}),
    "another architecture": (
        config(architectures=["MPNetModel"], model_type="mpnet"), {"vllm": "note", "llama.cpp": "refuses"},
    ),
    "unknown type": (
        config(architectures=["OwnModel"], model_type="own"),
        {"tei": "refuses", "vllm": "note", "llama.cpp": "refuses"},
    ),
    "modernbert of transformers 5": (
        config(
            architectures=["ModernBertModel"], model_type="modernbert",
            layer_types=["full_attention", "sliding_attention"],
            rope_parameters={"full_attention": {"rope_theta": 160000.0}, "sliding_attention": {"rope_theta": 10000.0}},
        ),
        {"tei": "refuses"},
    ),
    "qwen2": (config(architectures=["Qwen2Model"], model_type="qwen2"), {"tei": "note"}),
    "sliding window": (
        config(architectures=["Qwen3Model"], model_type="qwen3", use_sliding_window=True), {"tei": "refuses"},
    ),
    "sparse": (
        of_class("SparseEncoder"),
        {
            **dict.fromkeys((OLDER[0], "infinity", "vllm", "fastembed", "llama.cpp"), "refuses"),
            "tei": "note",
        },
    ),
    "sparse with a head": (
        both(of_class("SparseEncoder"), config(architectures=["BertForMaskedLM"])),
        {
            **dict.fromkeys((OLDER[0], "infinity", "fastembed", "llama.cpp"), "refuses"),
            "vllm": "differs",
            "tei": "note",
        },
    ),
    "multi-vector": (
        of_class("MultiVectorEncoder"),
        dict.fromkeys((*OLDER, "tei", "vllm", "fastembed", "llama.cpp"), "refuses"),
    ),
    "reranker without labels": (
        both(of_class("CrossEncoder"), config(architectures=["BertForSequenceClassification"])),
        {"tei": "refuses", "llama.cpp": "note"},
    ),
    "reranker without a head": (
        both(of_class("CrossEncoder"), config(id2label={"0": "a"}, label2id={"a": 0})),
        {"tei": "refuses", "llama.cpp": "note"},
    ),
    "in a folder": (
        in_a_folder, dict.fromkeys(("tei", "vllm", "infinity", "fastembed", "llama.cpp"), "refuses"),
    ),
    "router": (
        router, dict.fromkeys((OLDER[0], "tei", "vllm", "infinity", "fastembed", "llama.cpp"), "refuses"),
    ),
    "router of 5.4": (
        both(router, route_mappings),
        dict.fromkeys((OLDER[0], OLDER[1], "tei", "vllm", "infinity", "fastembed", "llama.cpp"), "refuses"),
    ),
    "no architectures": (
        config(architectures=None), {"tei": "refuses", "vllm": "note", "llama.cpp": "refuses"},
    ),
    "pooling elsewhere": (
        both(pooling_elsewhere), {"tei": "differs", "infinity": "differs", "llama.cpp": "note"},
    ),
    "pooling elsewhere, decoder": (
        both(pooling_elsewhere, config(architectures=["Qwen3Model"], model_type="qwen3")),
        {"tei": "refuses", "infinity": "differs", "llama.cpp": "note"},
    ),
    "dense behind an unknown type": (
        dense_behind_an_unknown_type,
        {
            **dict.fromkeys(OLDER, "refuses"),
            **dict.fromkeys(("tei", "fastembed", "llama.cpp", "vllm==0.23"), "differs"),
        },
    ),
    "scaled rotary of a decoder": (
        config(
            architectures=["Qwen3Model"], model_type="qwen3", rope_theta=1e4, rope_scaling={"rope_type": "yarn"},
            rope_parameters={"rope_type": "yarn", "rope_theta": 1e4},
        ),
        {"tei": "differs"},
    ),
    "several pickles": (several_pickles, {"tei": "refuses"}),
    "mean over root, not normalised": (
        both(pooling("mean_sqrt_len_tokens"), without_normalize),
        {"tei": "refuses", "vllm": "differs", "infinity": "differs", "fastembed": "refuses", "llama.cpp": "refuses"},
    ),
}  # fmt: skip
_NAMES = (*ALL, "vllm==0.23")


def worst(root: Path) -> dict[str, str]:
    """server → its worst finding; a server without one is not there."""
    found = examine(root, _NAMES).servers
    return {name: server.findings[0].effect for name, server in zip(_NAMES, found, strict=True) if server.findings}


def test_every_server_takes_the_plain_model(model: Path) -> None:
    assert worst(model) == {}
    assert {server.verdict for server in examine(model).servers} == {"ready"}


@pytest.mark.parametrize("name", CASES)
def test_one_thing_changed(name: str, model: Path) -> None:
    change, expected = CASES[name]
    change(model)

    found = worst(model)

    known = dict(expected)
    if "vllm" in known:
        known.setdefault("vllm==0.23", known["vllm"])
    assert found == known


def test_every_rule_is_broken_by_a_case(model: Path, tmp_path: Path) -> None:
    """No row of the tables stands there untried."""
    broken = set()
    for number, (change, _) in enumerate(CASES.values()):
        changed = Path(shutil.copytree(model, tmp_path / str(number)))
        change(changed)
        facts = read_facts(changed)
        broken |= {rule for server in SERVERS for rule in server.rules if rule.found(facts) is not None}

    untried = [(server.name, rule.found) for server in SERVERS for rule in server.rules if rule not in broken]
    assert untried == []


@pytest.mark.parametrize("name", CASES)
def test_what_fix_promises_it_mends(name: str, model: Path, tmp_path: Path) -> None:
    CASES[name][0](model)
    promised = {PORTABLE, LEGACY}
    before = examine(model, _NAMES)
    if not any(finding.fix in promised for server in before.servers for finding in server.findings):
        return

    rewrite(model, tmp_path / "fixed", legacy=before.legacy)

    after = examine(tmp_path / "fixed", _NAMES)
    assert not [finding for server in after.servers for finding in server.findings if finding.fix in promised]
    assert after.rewritable == ()


def test_release_decides(model: Path) -> None:
    newer_types(model)
    names = ["5.3.1", "5.4", "6.2.1"]

    found = examine(model, [f"sentence-transformers=={name}" for name in names]).servers

    assert [server.verdict for server in found] == ["will not start", "ready", "ready"]
    assert examine(model, ["sentence-transformers"]).servers[0].verdict == "ready"


def test_unknown_server(model: Path) -> None:
    with pytest.raises(UnusableInput, match=r"No rules for the server vlm \(nearest: vllm\)"):
        examine(model, ["vlm"])
    with pytest.raises(UnusableInput, match="'new' is no release"):
        examine(model, ["tei==new"])


def test_neither_model_nor_adapter(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="neither a model nor an adapter"):
        examine(tmp_path)


ODD: tuple[Any, ...] = (None, 3, "x", [], [""], {}, {"a": []})


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "rope_parameters"),
        ("config.json", "model_type"),
        ("config.json", "architectures"),
        ("sentence_bert_config.json", "transformer_task"),
        ("sentence_bert_config.json", "modality_config"),
        ("tokenizer.json", "normalizer"),
        ("1_Pooling/config.json", "pooling_mode"),
    ],
)
def test_values_of_another_type(model: Path, file: str, key: str) -> None:
    """No rule and no rewriting stumbles over them."""
    nested = [{"full_attention": value, "type": "Sequence", "normalizers": value} for value in ODD]
    for value in (*ODD, *nested):
        edit_json(model / file, **{key: value})

        assert len(examine(model).servers) == len(ALL)


def test_a_router_within_a_router(model: Path) -> None:
    write_modules(model, [(f"{_ST}.models.Router", "")])
    write_json(model / "router_config.json", {"types": {"inner": f"{_ST}.models.Router"}, "structure": {}})
    write_json(model / "inner" / "router_config.json", {"types": {"a": []}, "structure": {}})

    assert len(examine(model).servers) == len(ALL)
