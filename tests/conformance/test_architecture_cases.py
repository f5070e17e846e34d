"""Ways to train and to save that no table lists: names, heads, vocabularies, ties, experts, routers, odd tensors."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from conformance.adapters import (
    TUNERS,
    Trained,
    by_peft,
    by_sentence_transformers,
    change_tensors,
    config_for,
    disturb,
    save_by_peft,
)
from conformance.architectures import ARCHITECTURES, VOCABULARY, Dtype, Layout, base, sentence_model
from conformance.comparison import check_parameters, error, exact_parameters, in_float64, outputs
from conformance.merging import LIMITS, check_merge
from helpers.files import stored_tensors
from helpers.merging import cli
from helpers.models import copy_of, new_folder, quiet
from ingraft.pipeline import merge

NOISE = TUNERS["lora"].noise
TOKENS = [7, 60, 11, 12, 90, 91, 92]


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, **options})


def check_lora(architecture: str, folder: Path | None = None, *, size: float = 1.0, **options: Any) -> None:
    """Train LoRA with `options` on a base, merge, and compare."""
    folder = folder or base(architecture)
    options.setdefault("target_modules", list(ARCHITECTURES[architecture].linear))
    trained = by_peft(folder, lora(**options), auto=ARCHITECTURES[architecture].auto, size=size)
    check_merge(trained, folder, architecture, noise=TUNERS["dora" if options.get("use_dora") else "lora"].noise)


# Names


WRAPPED: Mapping[str, Callable[[str], str]] = {
    "compiled": lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
    "checkpointed": lambda key: key.replace("layer.0.", "layer.0._checkpoint_wrapped_module."),
    "both": lambda key: WRAPPED["compiled"](WRAPPED["checkpointed"](key)),
    "compiled layers": lambda key: key.replace("layer.1.", "layer.1._orig_mod."),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("tuner", ["lora", "ia3", "glora"])
def test_wrappers_left_their_names_in_the_adapter(tuner: str, wrapped: str) -> None:
    trained = by_peft(base("bert"), config_for(tuner, "bert"))
    change_tensors(trained.folder, lambda key, value: (WRAPPED[wrapped](key), value))
    check_merge(trained, base("bert"), "bert", noise=TUNERS[tuner].noise)


@pytest.mark.parametrize("tuner", ["lora", "dora", "ia3"])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("bert", "AutoModelForMaskedLM"),
        ("distilbert", "AutoModelForSequenceClassification"),
        ("nomic-bert", "AutoModelForMaskedLM"),
        ("gte", "AutoModelForMaskedLM"),
        ("qwen2", "AutoModelForCausalLM"),
        ("qwen3", "AutoModelForSequenceClassification"),
        ("gpt2", "AutoModelForCausalLM"),
        ("mixtral", "AutoModelForCausalLM"),
    ],
)
def test_trained_with_a_head_on_a_headless_base(architecture: str, head: str, tuner: str) -> None:
    kind = "conv1d" if architecture == "gpt2" else "linear"
    trained = by_peft(base(architecture), config_for(tuner, architecture, kind), auto=head)
    before = transformers.AutoModel.from_pretrained(base(architecture), dtype="auto").eval()
    body: Any = trained.live.base_model
    if architecture == "bert":  # the class with a head has no pooler, which stays the base's
        body.pooler = copy.deepcopy(before.pooler)
    check_merge(
        Trained(trained.folder, body, body, before), base(architecture), architecture, noise=TUNERS[tuner].noise
    )


@pytest.mark.parametrize(("architecture", "stored"), [("bert", "bert-scores"), ("qwen3", "qwen3-lm")])
def test_trained_without_the_head_that_the_base_has(architecture: str, stored: str) -> None:
    check_lora(architecture, base(stored))


@pytest.mark.parametrize(("tuner", "kind"), [("lora", "linear"), ("ln-tuning", "norm")])
def test_legacy_names_of_norms(tuner: str, kind: str) -> None:
    folder = copy_of(base("bert"))
    legacy = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def renamed(name: str) -> str:
        ending = name.rpartition("LayerNorm")[1] + name.rpartition("LayerNorm")[2]
        return name.removesuffix(ending) + legacy.get(ending, ending)

    tensors = load_file(folder / "model.safetensors")
    save_file({renamed(n): t for n, t in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    trained = by_peft(folder, config_for(tuner, "bert", kind))
    check_merge(trained, folder, "bert", noise=TUNERS[tuner].noise)


def test_adapter_for_the_fused_layer_that_is_split_when_loaded() -> None:
    """Trained with the model's older code, which has a layer Wqkv: the adapter's names are those of the file."""
    stored = load_file(base("nomic-bert") / "model.safetensors")
    model = nn.Module()
    for name, weight in stored.items():
        if name.endswith("Wqkv.weight"):
            _put(model, name.removesuffix(".weight"), weight)
    adapted: Any = peft.get_peft_model(model, lora(target_modules=["Wqkv"]))
    disturb(adapted)
    adapted.peft_config["default"].base_model_name_or_path = str(base("nomic-bert"))
    with quiet():
        trained = save_by_peft(adapted, adapted.get_base_model(), adapted.get_base_model())
    exact = {f"{name}": value for name, value in exact_parameters(in_float64(trained.live)).items()}
    result = merge(trained.folder, new_folder("merged") / "out")
    assert result.report is not None
    assert result.report.passed
    merged = load_file(result.output / "model.safetensors")
    assert merged.keys() == stored.keys()
    for name, value in merged.items():
        if name in exact:
            torch.testing.assert_close(value.double(), exact[name], rtol=2e-7, atol=2e-8)
            assert error(stored[name], exact[name]) > 0.01
        else:
            assert torch.equal(value, stored[name])


def _put(model: nn.Module, name: str, weight: Tensor) -> None:
    *path, last = name.split(".")
    for part in path:
        if not hasattr(model, part):
            model.add_module(part, nn.Module())
        model = getattr(model, part)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.load_state_dict({"weight": weight})
    model.add_module(last, layer)


# Which layers, and how much


PATTERNS: Mapping[str, dict[str, Any]] = {
    "ranks": {"rank_pattern": {"query": 3, r"layer\.1\..*value": 2}},
    "alphas": {"alpha_pattern": {"key": 3, "encoder.layer.0.output.dense": 40}, "lora_alpha": 5},
    "both, rank-stabilised": {"rank_pattern": {"query": 2}, "alpha_pattern": {"query": 3}, "use_rslora": True},
    "both, DoRA": {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 3}, "use_dora": True},
    "layers": {"target_modules": ["query", "value"], "layers_to_transform": [1], "layers_pattern": "layer"},
    "one layer": {"target_modules": ["query", "output.dense"], "layers_to_transform": 0},
    "expression": {"target_modules": r".*\.1\.attention\.(self\.query|output\.dense)"},
    "exclusion": {"target_modules": ["dense"], "exclude_modules": ["pooler.dense", "attention.output.dense"]},
    "exclusion by expression": {"target_modules": ["query", "key"], "exclude_modules": r".*layer\.0\..*"},
    "all linear layers": {"target_modules": "all-linear"},
    "saved whole": {"target_modules": ["query"], "modules_to_save": ["pooler", "LayerNorm"]},
    "embeddings saved whole": {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]},
    "saved whole, biases too": {"target_modules": ["query"], "modules_to_save": ["pooler"], "bias": "all"},
    "embeddings and layers": {"target_modules": ["word_embeddings", "position_embeddings", "query"]},
    "DoRA on embeddings": {"target_modules": ["word_embeddings", "query"], "use_dora": True},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    check_lora("bert", size=2, **PATTERNS[pattern])


SPLIT_PATTERNS: Mapping[str, dict[str, Any]] = {
    "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 3}, "alpha_pattern": {"k_proj": 3}},
    "layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "one part": {"target_modules": ["k_proj"]},
    "one part saved whole": {"target_modules": ["v_proj"], "modules_to_save": ["q_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "DoRA on two parts": {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
}


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
@pytest.mark.parametrize("architecture", ["nomic-bert", "gte"])
def test_patterns_on_layers_that_are_split_when_loaded(architecture: str, pattern: str) -> None:
    if pattern == "layers":  # PEFT wants a name before the layers, which only a class with a head has
        trained = by_peft(base(architecture), lora(target_modules=["q_proj", "k_proj"], **SPLIT_PATTERNS[pattern]),
                          auto="AutoModelForMaskedLM", size=3)  # fmt: skip
        before = transformers.AutoModel.from_pretrained(base(architecture), dtype="auto").eval()
        body: Any = trained.live.base_model
        check_merge(Trained(trained.folder, body, body, before), base(architecture), architecture, noise=NOISE)
    else:
        check_lora(architecture, size=3, **SPLIT_PATTERNS[pattern])


def test_pruned_ranks_of_adalora() -> None:
    config = peft.AdaLoraConfig(
        target_modules=["query", "output.dense"], init_r=6, target_r=2, tinit=1, tfinal=2, deltaT=1, total_step=6
    )
    with quiet():
        model: Any = peft.get_peft_model(transformers.AutoModel.from_pretrained(base("bert")), config)
        disturb(model, size=5)
        for step in range(7):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
            model.base_model.update_and_allocate(step)
        kept = config.rank_pattern
        assert kept is not None
        assert any(not all(ranks) for ranks in kept.values())
        before = transformers.AutoModel.from_pretrained(base("bert")).eval()
        trained = save_by_peft(model, model.get_base_model(), before)
    check_merge(trained, base("bert"), "bert", noise=TUNERS["adalora"].noise)


# Vocabulary and ties


@pytest.mark.parametrize("rows", [VOCABULARY + 8, VOCABULARY - 8], ids=["grown", "shrunk"])
@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        *[(name, "plain") for name in ("bert", "qwen3", "gpt2", "nomic-bert", "bert-mlm", "qwen3-lm")],
        *[(name, "sentence") for name in ("bert", "bert-mlm", "qwen3")],
    ],
)
def test_resized_vocabulary(architecture: str, layout: Layout, rows: int) -> None:
    made = ARCHITECTURES[architecture]
    kind = "conv1d" if architecture == "gpt2" else "linear"
    with quiet():
        trained = _resized(architecture, layout, config_for("lora", architecture, kind), rows)
    result = merge(trained.folder, new_folder("merged") / "out")
    merged, info = getattr(transformers, made.auto).from_pretrained(
        result.output, dtype="auto", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert merged.config.vocab_size == rows
    old, new = (model.get_input_embeddings().weight.detach()[:100] for model in (trained.before, merged))
    assert error(old, new) > 0.1
    live = in_float64(trained.live)
    check_parameters(merged, trained.before, exact_parameters(live), noise=NOISE)
    ids = torch.arange(rows)[None, :60]
    with torch.no_grad():
        found, expected = in_float64(merged.eval())(input_ids=ids)[0], live(input_ids=ids)[0]
    assert error(found, expected) < LIMITS[torch.float32]


def _resized(architecture: str, layout: Layout, config: Any, rows: int) -> Trained:
    """Trained on a model with another number of token embeddings, which are trained too."""
    import sentence_transformers

    made, folder = ARCHITECTURES[architecture], base(architecture, layout=layout)
    before = getattr(transformers, made.auto).from_pretrained(folder, dtype="auto").eval()
    if layout == "plain":
        model = getattr(transformers, made.auto).from_pretrained(folder, dtype="auto")
    else:
        whole = getattr(sentence_transformers, made.sentence)(str(folder), device="cpu")
        model = whole[0].model
    model.resize_token_embeddings(rows, mean_resizing=False)
    if layout == "plain":
        adapted: Any = peft.get_peft_model(model, config)
    else:
        whole.add_adapter(config)
    disturb(model)
    disturb(model.get_input_embeddings().requires_grad_(True))
    if layout == "plain":
        return save_by_peft(adapted, model, before)
    adapter = new_folder("adapter")
    whole.save_pretrained(str(adapter))
    return Trained(adapter, model.eval(), whole.eval(), before)


@pytest.mark.parametrize("layout", ["plain", "sentence"])
@pytest.mark.parametrize(
    "architecture", ["bert", "modernbert", "gemma3", "qwen3-lm", "bert-mlm", "albert", "mixtral", "t5"]
)
def test_trained_tokens_beside_lora(architecture: str, layout: Layout) -> None:
    made = ARCHITECTURES[architecture]
    embedding = "shared" if architecture == "t5" else made.embedding
    config = lora(target_modules=list(made.linear), trainable_token_indices={embedding: TOKENS})
    if layout == "sentence" and architecture != "qwen3-lm":
        folder = base(architecture, layout=layout)
        trained = by_sentence_transformers(folder, config, model_class=made.sentence)
    else:
        folder = base(architecture)
        trained = by_peft(folder, config, auto=made.auto)
    check_merge(trained, folder, architecture, noise=NOISE)


@pytest.mark.parametrize("ensure", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3-lm", "bert-mlm"])
def test_saved_embedding_that_an_output_layer_shares(architecture: str, ensure: bool) -> None:
    check_lora(
        architecture,
        target_modules=list(ARCHITECTURES[architecture].square),
        modules_to_save=[ARCHITECTURES[architecture].embedding],
        ensure_weight_tying=ensure,
    )


@pytest.mark.parametrize("layout", ["plain", "sentence"])
@pytest.mark.parametrize("ensure", [False, True])
@pytest.mark.parametrize("architecture", ["qwen3-lm", "bert-mlm"])
def test_lora_on_an_embedding_that_an_output_layer_shares(architecture: str, ensure: bool, layout: Layout) -> None:
    made = ARCHITECTURES[architecture]
    config = lora(target_modules=[made.embedding, *made.square], ensure_weight_tying=ensure)
    if layout == "sentence" and architecture == "bert-mlm":
        folder = base(architecture, layout=layout)
        trained = by_sentence_transformers(folder, config, model_class=made.sentence)
    else:
        folder = base(architecture)
        trained = by_peft(folder, config, auto=made.auto)
    check_merge(trained, folder, architecture, noise=NOISE)


def test_lora_on_both_sides_of_a_tie() -> None:
    check_lora("qwen3-lm", target_modules=["embed_tokens", "lm_head", "q_proj"])


def test_lora_on_the_output_layer_of_a_tie() -> None:
    check_lora("qwen3-lm", target_modules=["lm_head", "q_proj"])


@pytest.mark.parametrize("tuner", ["lora", "dora", "kasa"])
@pytest.mark.parametrize("architecture", ["bert", "qwen2"])
def test_trained_tokens_beside_variants(architecture: str, tuner: str) -> None:
    config = config_for(tuner, architecture, trainable_token_indices=TOKENS)
    if architecture == "bert":
        config.trainable_token_indices = {"word_embeddings": TOKENS}
    trained = by_peft(base(architecture), config)
    check_merge(trained, base(architecture), architecture, noise=TUNERS[tuner].noise)


# Heads


@pytest.mark.parametrize("stored", ["bert", "bert-scores", "distilbert"])
def test_cross_encoder_with_its_head_trained_along(stored: str) -> None:
    """The head is the adapter's, whether the base has one or not."""
    head = {"distilbert": ["pre_classifier", "classifier"]}.get(stored, ["classifier"])
    folder = new_folder("scores")
    sentence_model(base(stored), "CrossEncoder", "sentence").save_pretrained(str(folder))
    if stored != "bert-scores":  # a model made of a headless one: its head is nowhere in the file
        shutil.copyfile(base(stored) / "model.safetensors", folder / "model.safetensors")
    config = lora(target_modules=list(ARCHITECTURES[stored].square), modules_to_save=head)
    trained = by_sentence_transformers(folder, config, model_class="CrossEncoder")
    result = merge(trained.folder, new_folder("merged") / "out")
    assert result.report is not None
    assert result.report.passed
    from sentence_transformers import CrossEncoder

    with quiet():
        merged = CrossEncoder(str(result.output), device="cpu").eval()
    check_parameters(merged[0].model, merged[0].model, exact_parameters(in_float64(trained.live)), noise=NOISE)
    expected = outputs(in_float64(trained.whole), "bert-scores")
    assert error(outputs(in_float64(merged), "bert-scores"), expected) < LIMITS[torch.float32]


def test_cross_encoder_with_a_head_that_nobody_trained_is_refused() -> None:
    folder = new_folder("scores")
    sentence_model(base("bert"), "CrossEncoder", "sentence").save_pretrained(str(folder))
    shutil.copyfile(base("bert") / "model.safetensors", folder / "model.safetensors")
    trained = by_sentence_transformers(folder, lora(target_modules=["query"]), model_class="CrossEncoder")
    check_refused(trained.folder, "classifier")


@pytest.mark.parametrize("architecture", ["bert-scores", "distilbert"])
def test_classifier_that_peft_saves_by_itself(architecture: str) -> None:
    """task_type=SEQ_CLS puts the head among modules_to_save."""
    auto = "AutoModelForSequenceClassification"
    targets = list(ARCHITECTURES[architecture].square)
    trained = by_peft(base(architecture), lora(target_modules=targets, task_type="SEQ_CLS"), auto=auto)
    result = merge(trained.folder, new_folder("merged") / "out")
    with quiet():
        merged = getattr(transformers, auto).from_pretrained(result.output, dtype="auto").eval()
    exact = exact_parameters(in_float64(trained.live))
    check_parameters(merged, merged, exact, noise=NOISE)
    expected = outputs(trained.live, architecture)
    assert error(outputs(in_float64(merged), architecture), expected) < LIMITS[torch.float32]


# Experts


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["plain", "shards"])
@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral", "gpt-oss"])
def test_experts(architecture: str, layout: Layout, dtype: Dtype) -> None:
    made = ARCHITECTURES[architecture]
    config = lora(target_modules=["q_proj"], target_parameters=list(made.experts))
    trained = by_peft(base(architecture, dtype, layout), config)
    check_merge(trained, base(architecture, dtype, layout), architecture, noise=NOISE)


EXPERTS: Mapping[str, dict[str, Any]] = {
    "one parameter": {"target_parameters": ["experts.down_proj"]},
    "the other parameter": {"target_parameters": ["experts.gate_up_proj"]},
    "ranks": {
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"experts.down_proj": 2},
        "alpha_pattern": {"experts.gate_up_proj": 5},
    },
    "rank-stabilised": {"target_parameters": ["experts.down_proj"], "use_rslora": True},
    "with the router": {"target_parameters": ["experts.down_proj", "gate.weight"]},
}


@pytest.mark.parametrize("variant", EXPERTS)
@pytest.mark.parametrize("architecture", ["qwen3-moe", "mixtral", "gpt-oss"])
def test_variants_on_experts(architecture: str, variant: str) -> None:
    options = dict(EXPERTS[variant])
    if architecture == "gpt-oss" and variant == "with the router":
        options["target_parameters"] = ["experts.down_proj", "router.weight"]
    check_lora(architecture, target_modules=[], size=2, **options)


def test_experts_trained_with_a_head() -> None:
    config = lora(target_modules=["v_proj"], target_parameters=["experts.down_proj"])
    trained = by_peft(base("mixtral"), config, auto="AutoModelForCausalLM")
    before = transformers.AutoModel.from_pretrained(base("mixtral"), dtype="auto").eval()
    body: Any = trained.live.base_model
    check_merge(Trained(trained.folder, body, body, before), base("mixtral"), "mixtral", noise=NOISE)


# How it was saved


@pytest.mark.parametrize(
    "options",
    [
        {"name": "mine"},
        {"safe_serialization": False},
        {"save_embedding_layers": True},
        {"safe_serialization": False, "name": "mine"},
    ],
    ids=str,
)
@pytest.mark.parametrize("tuner", ["lora", "vera", "adamss"])
def test_ways_to_save(tuner: str, options: dict[str, Any]) -> None:
    trained = by_peft(base("bert"), config_for(tuner, "bert"), size=TUNERS[tuner].size, **options)
    check_merge(trained, base("bert"), "bert", noise=TUNERS[tuner].noise)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tuner", ["lora", "oft"])
def test_adapter_in_another_dtype(tuner: str, dtype: Dtype, stored: torch.dtype) -> None:
    trained = by_peft(base("bert", dtype), config_for(tuner, "bert"))
    with torch.no_grad():
        for name, parameter in trained.live.named_parameters():
            if ".lora_" in name or ".oft_" in name:
                parameter.copy_(parameter.to(stored))
    change_tensors(trained.folder, lambda key, value: (key, value.to(stored)))
    check_merge(trained, base("bert", dtype), "bert", noise=TUNERS[tuner].noise)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_dtype_of_the_output(stored: Dtype, asked: Dtype) -> None:
    trained = by_peft(base("qwen2", stored), config_for("dora", "qwen2"))
    result = merge(trained.folder, new_folder("merged") / "out", dtype=asked)
    merged = transformers.AutoModel.from_pretrained(result.output, dtype="auto").eval()
    assert {parameter.dtype for parameter in merged.parameters()} == {getattr(torch, asked)}
    exact = exact_parameters(in_float64(trained.live))
    check_parameters(merged, merged, exact, noise=TUNERS["dora"].noise)


def test_plain_adapter_over_a_sentence_transformers_base() -> None:
    """Pooling, Dense and Normalize are the base's."""
    from sentence_transformers import SentenceTransformer

    folder = base("bert", layout="dense")
    trained = by_peft(folder, config_for("lora", "bert"))
    whole, before = (SentenceTransformer(str(folder), device="cpu").eval() for _ in range(2))
    whole[0].model = trained.live
    check_merge(Trained(trained.folder, trained.live, whole, before), folder, "bert", noise=NOISE)


def test_router_with_an_adapter_on_each_route() -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    def route(architecture: str) -> list[nn.Module]:
        return [Transformer(str(base(architecture))), Pooling(32, "mean")]

    with quiet():
        model = SentenceTransformer(
            modules=[Router.for_query_document(route("bert"), route("distilbert")), Normalize()], device="cpu"
        )
        folder = new_folder("router")
        model.save_pretrained(str(folder))
        model = SentenceTransformer(str(folder), device="cpu").eval()
        for number, (name, architecture) in enumerate([("query", "bert"), ("document", "distilbert")]):
            transformer = model[0].sub_modules[name][0]
            transformer.model.add_adapter(config_for(["lora", "dora"][number], architecture))
            disturb(transformer.model, seed=number)
        adapter = new_folder("adapter")
        model.save_pretrained(str(adapter))
        result = merge(adapter, new_folder("merged") / "out", base=folder)
        merged, before = (SentenceTransformer(str(path), device="cpu").eval() for path in (result.output, folder))
    assert result.report is not None
    assert result.report.passed
    assert not [*result.output.rglob("adapter_*")]
    for task in ("query", "document"):
        live = model[0].sub_modules[task][0].model
        plain, start = (m[0].sub_modules[task][0].model for m in (merged, before))
        check_parameters(plain, start, exact_parameters(in_float64(live)), noise=TUNERS["dora"].noise)
        texts = ["fever and cough", "left hand"]
        found, expected, unadapted = (m.double().encode(texts, task=task) for m in (merged, model, before))
        assert error(torch.tensor(found), torch.tensor(expected)) < LIMITS[torch.float32]
        assert error(torch.tensor(unadapted), torch.tensor(expected)) > 0.01


# Odd tensors


def test_tensors_of_other_dtypes_pass_through() -> None:
    """float8, integers and booleans that the class does not know keep their bytes; so do float8 ones beside edits."""
    folder = copy_of(base("bert"))
    tensors = load_file(folder / "model.safetensors")
    extra = {
        "vision.weight": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "vision.other": torch.randn(8, 8).to(torch.float8_e5m2),
        "vision.scale": torch.rand(3).double(),
        "vision.packed": torch.randint(0, 255, (7, 3), dtype=torch.uint8),
        "vision.counts": torch.arange(5),
        "vision.mask": torch.tensor([True, False]),
    }
    save_file({**tensors, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    trained = by_peft(folder, config_for("lora", "bert"))
    result = check_merge(trained, folder, "bert", noise=NOISE)
    before, after = stored_tensors(folder), stored_tensors(result.output)
    assert {name: after[name] for name in extra} == {name: before[name] for name in extra}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_adapted_layer_in_a_dtype_that_cannot_be_edited_is_refused(dtype: torch.dtype) -> None:
    trained = by_peft(base("bert"), config_for("lora", "bert"))
    folder = copy_of(base("bert"))
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.1.attention.self.query.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_refused(trained.folder, "encoder.layer.1.attention.self.query", "--base", folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("tuner", "kind"),
    [("lora", "linear"), ("dora", "linear"), ("ia3", "linear"), ("oft", "linear"), ("vera", "linear"),
     ("glora", "linear"), ("adamss", "linear"), ("tokens", "embedding"), ("ln-tuning", "norm")],
)  # fmt: skip
def test_adapter_that_is_not_finite_is_refused(tuner: str, kind: str, value: float) -> None:
    trained = by_peft(base("bert"), config_for(tuner, "bert", kind))
    keys = [key for key, tensor in load_file(trained.folder / "adapter_model.safetensors").items() if tensor.numel()]

    def spoil(key: str, tensor: Tensor) -> tuple[str, Tensor]:
        if key == keys[-1] and tensor.is_floating_point():
            tensor = tensor.clone()
            tensor.view(-1)[-1] = value
        return key, tensor

    change_tensors(trained.folder, spoil)
    check_refused(trained.folder, "NaN or infinity")


def check_refused(adapter: Path, *words_and_options: Any) -> None:
    """Exit code 2, a message that names the cause, and nothing written, not even beside the output."""
    words, options = words_and_options[:1], words_and_options[1:]
    parent = new_folder("refused")
    run = cli("merge", adapter, parent / "out", *options)
    assert run.code == 2, run.out + run.err
    for word in words:
        assert str(word) in run.err
    assert not [*parent.iterdir()]


# Sentence Transformers classes


def test_multi_vector_encoder() -> None:
    from sentence_transformers import MultiVectorEncoder

    with quiet():
        folder = new_folder("vectors")
        MultiVectorEncoder(str(base("bert")), device="cpu").save_pretrained(str(folder))
        trained = by_sentence_transformers(folder, config_for("lora", "bert"), model_class="MultiVectorEncoder")
        result = merge(trained.folder, new_folder("merged") / "out")
        merged = MultiVectorEncoder(str(result.output), device="cpu").eval()
    check_parameters(merged[0].model, trained.before[0].model, exact_parameters(in_float64(trained.live)), noise=NOISE)
    texts = ["fever and cough", "left hand"]
    found, expected, unadapted = (m.double().encode_document(texts) for m in (merged, trained.whole, trained.before))
    for index in range(len(texts)):
        answer = torch.as_tensor(expected[index])
        assert error(torch.as_tensor(found[index]), answer) < LIMITS[torch.float32]
        assert error(torch.as_tensor(unadapted[index]), answer) > 0.01


def test_prompts_and_dense_of_the_adapter_win() -> None:
    trained = by_sentence_transformers(base("bert", layout="dense"), config_for("lora", "bert"))
    config = trained.folder / "config_sentence_transformers.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "prompts": {"query": "search "}}))
    result = check_merge(trained, base("bert", layout="dense"), "bert", noise=NOISE)
    assert json.loads((result.output / config.name).read_text())["prompts"] == {"query": "search "}
