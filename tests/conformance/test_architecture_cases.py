"""Names that wrappers, heads and older code leave in an adapter, layers chosen by rules, and trained heads."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
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
    lora,
    save_by_peft,
)
from conformance.architectures import ARCHITECTURES, base, sentence_model
from conformance.comparison import check_parameters, error, exact_parameters, in_float64, outputs
from conformance.merging import LIMITS, NOISE, check_lora, check_merge, check_refused
from helpers.models import copy_of, new_folder, quiet
from ingraft.pipeline import merge

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
    "first part saved whole": {"target_modules": ["o_proj"], "modules_to_save": ["q_proj"]},
    "last part saved whole": {"target_modules": ["o_proj"], "modules_to_save": ["v_proj"]},
    "one part saved whole, one adapted": {"target_modules": ["v_proj"], "modules_to_save": ["q_proj"]},
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
