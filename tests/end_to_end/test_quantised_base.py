"""Adapters over bases that transformers and bitsandbytes quantise, on the CPU: the merged model is the trained one.

The truth is the live model as QLoRA training has it: `from_pretrained(…, quantization_config=…)`, PEFT's adapter on it,
in training mode without dropout. (In evaluation mode bitsandbytes' CPU kernel computes in bfloat16, which no training
saw.) All layers have 64 or 128 inputs: where rows are no whole number of blocks, that library's CPU kernel of version
0.50 takes the wrong scales, which its GPU kernels do not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.files import snapshot, stored_tensors
from helpers.handmade import change_tensors
from helpers.models import (
    ARCHITECTURES,
    TARGETS,
    TEXTS,
    copy_of,
    lora_config,
    new_folder,
    plain_adapter,
    plain_base,
    quiet,
    sentence_adapter,
    sentence_base,
    split_weights,
    tokenizer,
)
from ingraft.base_precision import dequantised_weights
from ingraft.cli.app import main
from ingraft.errors import UnusableInput
from ingraft.pipeline import merge
from ingraft.plan import plan_merge
from ingraft.proof import verify
from ingraft.verification.weights import verify_weights

SETTINGS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """bitsandbytes logs hints about other hardware when it is imported."""
    logger = logging.getLogger("bitsandbytes")
    logger.setLevel(logging.ERROR)
    with quiet():
        yield


def quantization(kind: str, **changes: Any) -> Any:
    return transformers.BitsAndBytesConfig(**{**SETTINGS[kind], **changes})  # type: ignore[no-untyped-call]


@silent()
def quantised(base: Path, kind: str | None, head: str = "AutoModel", **changes: Any) -> Any:
    """The model as training loads it; without a `kind`: as `base` itself says."""
    given = {} if kind is None else {"quantization_config": quantization(kind, **changes)}
    return getattr(transformers, head).from_pretrained(base, device_map="cpu", **given)


@functools.cache
def packed_base(architecture: str, kind: str, dtype: str = "float32") -> Path:
    """What save_pretrained writes for a quantised model."""
    compute = {} if kind == "int8" else {"bnb_4bit_compute_dtype": dtype}
    folder = new_folder(f"{architecture}-{kind}")
    quantised(plain_base(architecture, dtype), kind, **compute).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@functools.cache
def adapter_for(architecture: str) -> Path:
    return plain_adapter(plain_base(architecture), lora_config(architecture))


def saying(adapter: Path, kind: str, **changes: Any) -> Path:
    """A copy of `adapter` whose config says how its base was quantised, as transformers writes it."""
    folder = copy_of(adapter)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["quantization_config"] = quantization(kind, **changes).to_dict()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@silent()
def live(base: Path, adapter: Path, kind: str | None, head: str = "AutoModel") -> Any:
    """base + adapter as training had it."""
    from peft import PeftModel

    return training_mode(PeftModel.from_pretrained(quantised(base, kind, head), adapter))


def training_mode(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@silent()
def plain(folder: Path, head: str = "AutoModel") -> Any:
    return training_mode(getattr(transformers, head).from_pretrained(folder))


@silent()
def outputs(model: Any) -> Tensor:
    """Token embeddings (or logits) of the real tokens."""
    batch = tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    tokens: Tensor = found.logits if "logits" in found else found.last_hidden_state[batch["attention_mask"].bool()]
    return tokens.float()


def weights_as_computed_with(model: Any) -> dict[str, Tensor]:
    """Every weight of a live quantised model, by bitsandbytes' own dequantisation, without adapters."""
    import bitsandbytes

    found = {}
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            found[name] = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            scale = module.state.SCB if module.weight.SCB is None else module.weight.SCB
            found[name] = bitsandbytes.functional.int8_vectorwise_dequant(module.weight.data, scale)
        if name in found and getattr(module, "source_cls", nn.Linear) is not nn.Linear:
            found[name] = found[name].T
    return found


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_layers_that_transformers_quantises_are_what_training_saw(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    """From the original base: the same layers, the same numbers in them, and every other tensor as it was."""
    base = plain_base(architecture)
    wanted = weights_as_computed_with(quantised(base, kind))
    assert len(wanted) >= 4
    plan = plan_merge(saying(adapter_for(architecture), kind), base, base_precision="dequantized")
    assert plan.dequantised is not None
    with dequantised_weights(plan.dequantised):
        found = dict(plain(plan.base.root).named_parameters())
    before = dict(plain(base).named_parameters())
    for name, value in found.items():
        module = name.removesuffix(".weight")
        expected = wanted[module] if module in wanted and name.endswith(".weight") else before[name]
        assert torch.equal(value, expected), name
    assert all(not torch.equal(wanted[name], before[f"{name}.weight"]) for name in wanted)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(
    ("stored", "declared"), [("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16")]
)
def test_what_is_quantised_is_what_was_loaded(tmp_path: Path, stored: str, declared: str, kind: str) -> None:
    """transformers loads a model in the dtype that its config names, and quantises that."""
    base = copy_of(plain_base("qwen2", stored))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": declared}))
    compute = {} if kind == "int8" else {"bnb_4bit_compute_dtype": declared}
    wanted = weights_as_computed_with(quantised(base, kind, **compute))
    plan = plan_merge(saying(adapter_for("qwen2"), kind, **compute), base, base_precision="dequantized")
    assert plan.dequantised is not None
    with dequantised_weights(plan.dequantised):
        found = load_file(plan.base.root / "model.safetensors")
    assert wanted
    assert all(torch.equal(found[f"{name}.weight"].float(), value.float()) for name, value in wanted.items())
    # What is merged keeps the base's own dtypes, which hold the dequantised numbers too.
    assert {step.dtype for step in plan.steps()} == {stored_tensors(base)["norm.weight"][0]}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("architecture", ["bert", "qwen2", "gpt2"])
def test_a_packed_base_is_unpacked_to_what_training_saw(tmp_path: Path, architecture: str, kind: str) -> None:
    base = packed_base(architecture, kind)
    wanted = weights_as_computed_with(quantised(base, None))
    plan = plan_merge(adapter_for(architecture), base, base_precision="dequantized")
    assert plan.dequantised is not None
    with dequantised_weights(plan.dequantised):
        found = dict(plain(plan.base.root).named_parameters())
    assert wanted
    assert all(torch.equal(found[f"{name}.weight"], value) for name, value in wanted.items())
    before = dict(plain(plain_base(architecture)).named_parameters())
    assert found.keys() == before.keys()
    assert all(
        torch.equal(value, before[name]) for name, value in found.items() if name.removesuffix(".weight") not in wanted
    )


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("architecture", ["bert", "qwen2"])
@pytest.mark.parametrize("stored", ["packed", "original"])
def test_the_merged_model_is_the_trained_one(tmp_path: Path, architecture: str, kind: str, stored: str) -> None:
    """Dequantised: base + adapter as training had it, to float32's rounding. Original: off by the quantisation."""
    original, adapter = plain_base(architecture), saying(adapter_for(architecture), kind)
    base = packed_base(architecture, kind) if stored == "packed" else original
    trained = outputs(live(base, adapter, None if stored == "packed" else kind))
    result = merge(adapter, tmp_path / "merged", base=base, base_precision="dequantized")
    assert result.report is not None
    assert result.report.passed
    merged = outputs(plain(result.output))
    assert (merged - trained).abs().max() < 2e-5
    # The original weights with the adapter: exactly what the adapter is on them, which is not what was trained.
    other = merge(adapter, tmp_path / "original", base=original, base_precision="original")
    on_original = outputs(plain(other.output))
    assert (on_original - outputs(live(original, adapter, None))).abs().max() < 2e-5
    assert (on_original - trained).abs().max() > 100 * (merged - trained).abs().max()


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_two_choices_differ_by_the_quantisation_error_alone(tmp_path: Path, kind: str) -> None:
    base, adapter = plain_base("qwen2"), saying(adapter_for("qwen2"), kind)
    results = {
        choice: merge(adapter, tmp_path / choice, base=base, base_precision=choice)  # type: ignore[arg-type]
        for choice in ("original", "dequantized")
    }
    merged = {choice: dict(plain(result.output).named_parameters()) for choice, result in results.items()}
    before = dict(plain(base).named_parameters())
    seen = weights_as_computed_with(quantised(base, kind))
    for name, weight in before.items():
        error = seen.get(name.removesuffix(".weight"), weight) - weight if name.endswith("weight") else 0 * weight
        difference = merged["dequantized"][name] - merged["original"][name]
        torch.testing.assert_close(difference, error, atol=2e-6, rtol=0)


def test_bfloat16_as_it_is_trained_in(tmp_path: Path) -> None:
    """The usual QLoRA: nf4, double quantisation, everything in bfloat16. Each layer, because whole models in bfloat16
    differ by more than the quantisation does."""
    base, adapter = packed_base("qwen2", "nf4-double", "bfloat16"), adapter_for("qwen2")
    result = merge(adapter, tmp_path / "merged", base=base, base_precision="dequantized")
    assert {dtype for dtype, _, _ in stored_tensors(result.output).values()} == {"BF16"}
    trained, merged = live(base, adapter, None).get_base_model(), dict(plain(result.output).named_parameters())
    seen = weights_as_computed_with(trained)
    for name in [name for name in seen if name.endswith("base_layer")]:
        module = name.removesuffix(".base_layer")
        exact = seen[name].double() + trained.get_submodule(module).get_delta_weight("default").double()
        rounded = exact.to(torch.bfloat16)
        error = (merged[f"{module}.weight"].double() - exact).abs()
        assert (error <= (rounded.double() - exact).abs() + 1e-6).all()


def test_an_adapter_trained_on_the_quantised_model(tmp_path: Path) -> None:
    """Trained for a few steps with PEFT on the 4-bit base, saved by PEFT, merged: the same outputs."""
    base, folder = packed_base("qwen2", "nf4"), tmp_path / "adapter"
    with silent():
        from peft import get_peft_model, prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(quantised(base, None), use_gradient_checkpointing=False)
        adapted = training_mode(get_peft_model(model, lora_config("qwen2")))
        optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=0.02)
        batch = tokenizer()(TEXTS, padding=True, return_tensors="pt")
        for _ in range(5):
            found = adapted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            loss = (found.last_hidden_state.mean(1) - 1).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        trained = outputs(adapted)
        adapted.save_pretrained(folder)  # type: ignore[operator]
    untrained = outputs(training_mode(quantised(base, None)))
    merged = outputs(plain(merge(folder, tmp_path / "merged", base=base, base_precision="dequantized").output))
    assert (trained - untrained).abs().max() > 0.1
    assert (merged - trained).abs().max() < 2e-5


def test_the_output_layer_is_left_alone_with_its_head(tmp_path: Path) -> None:
    """A causal model: transformers does not quantise lm_head, and its name says that training saw the head."""
    base = plain_base("qwen2", head="AutoModelForCausalLM")
    adapter = plain_adapter(base, lora_config("qwen2", task_type="CAUSAL_LM"), head="AutoModelForCausalLM")
    said = saying(adapter, "nf4")
    trained = outputs(live(base, said, "nf4", "AutoModelForCausalLM"))
    result = merge(said, tmp_path / "merged", base=base, base_precision="dequantized")
    assert (outputs(plain(result.output, "AutoModelForCausalLM")) - trained).abs().max() < 2e-4
    name = "lm_head.weight"
    assert stored_tensors(result.output)[name] == stored_tensors(base)[name]


def test_a_classifier_is_quantised_where_transformers_does_it(tmp_path: Path) -> None:
    head = "AutoModelForSequenceClassification"
    base = plain_base("bert", head=head)
    config = lora_config("bert", task_type="FEATURE_EXTRACTION", target_modules=["query", "value"])
    said = saying(plain_adapter(base, config, head=head), "nf4")
    seen = weights_as_computed_with(quantised(base, "nf4", head))
    result = merge(said, tmp_path / "merged", base=base, base_precision="dequantized")
    assert (outputs(plain(result.output, head)) - outputs(live(base, said, "nf4", head))).abs().max() < 2e-5
    assert "classifier" in seen
    assert torch.equal(load_file(result.output / "model.safetensors")["classifier.weight"], seen["classifier"])


def test_modules_that_the_config_leaves_out_stay_original(tmp_path: Path) -> None:
    base, skipped = plain_base("bert"), ["query", "pooler.dense"]
    said = saying(adapter_for("bert"), "nf4", llm_int8_skip_modules=skipped)
    plan = plan_merge(said, base, base_precision="dequantized")
    assert plan.dequantised is not None
    changed = {layer.parameter.removesuffix(".weight") for layer in plan.dequantised.layers}
    assert changed == set(weights_as_computed_with(quantised(base, "nf4", llm_int8_skip_modules=skipped)))
    assert not any(name.endswith(("query", "pooler.dense")) for name in changed)


def test_nf4_is_assumed_where_nobody_says_it(tmp_path: Path) -> None:
    base = plain_base("bert")
    silent_one = merge(adapter_for("bert"), tmp_path / "silent", base=base, base_precision="dequantized")
    said = merge(saying(adapter_for("bert"), "nf4"), tmp_path / "said", base=base, base_precision="dequantized")
    assert "assumed" in silent_one.plan.notes[0]
    assert "assumed" not in said.plan.notes[0]
    assert stored_tensors(silent_one.output) == stored_tensors(said.output)


def test_the_proof_is_made_against_the_dequantised_base(tmp_path: Path) -> None:
    """It passes for the dequantised merge, and not for a merge into the original weights."""
    base, adapter = packed_base("bert", "nf4"), adapter_for("bert")
    plan = plan_merge(adapter, base, base_precision="dequantized")
    right = merge(adapter, tmp_path / "right", base=base, base_precision="dequantized").output
    wrong = merge(adapter, tmp_path / "wrong", base=plain_base("bert")).output
    with dequantised_weights(plan.dequantised):
        assert all(check.passed for check in verify_weights(plan, right))
        failed = {check.name for check in verify_weights(plan, wrong) if not check.passed}
    assert "probes" in failed


@pytest.mark.parametrize("method", ["DoRA", "TinyLoRA"])
def test_every_route_reads_the_dequantised_weights(tmp_path: Path, method: str) -> None:
    """A formula of the base's weight, and PEFT in memory: what they make of a plain base with these weights."""
    import peft

    targets = ["query", "value"]
    tiny = peft.TinyLoraConfig(target_modules=targets, r=2, task_type="FEATURE_EXTRACTION")
    config = tiny if method == "TinyLoRA" else lora_config("bert", target_modules=targets, use_dora=True)
    base, adapter = packed_base("bert", "nf4"), plain_adapter(plain_base("bert"), config)
    plan = plan_merge(adapter, base, base_precision="dequantized")
    assert plan.route == ("in-memory" if method == "TinyLoRA" else "streamed")
    with dequantised_weights(plan.dequantised):
        by_hand = copy_of(plan.base.root)
    merged = merge(adapter, tmp_path / "merged", base=base, base_precision="dequantized")
    expected = merge(adapter, tmp_path / "expected", base=by_hand)
    assert stored_tensors(merged.output) == stored_tensors(expected.output)
    assert stored_tensors(merged.output) != stored_tensors(
        merge(adapter, tmp_path / "o", base=plain_base("bert")).output
    )


def test_shards_and_an_older_storage_of_four_bits(tmp_path: Path) -> None:
    """Companions in another shard than their weight; 4-bit numbers stored in bfloat16, as FSDP wants them."""
    base = new_folder("shards")
    quantised(plain_base("bert"), "nf4", bnb_4bit_quant_storage="bfloat16").save_pretrained(base)
    split_weights(base, 3)
    one = merge(adapter_for("bert"), tmp_path / "a", base=packed_base("bert", "nf4"), base_precision="dequantized")
    three = merge(adapter_for("bert"), tmp_path / "b", base=base, base_precision="dequantized")
    assert len(list(three.output.glob("*.safetensors"))) == 3
    assert stored_tensors(three.output) == stored_tensors(one.output)
    assert (outputs(plain(three.output)) - outputs(plain(one.output))).abs().max() == 0


def test_a_sentence_transformers_model_over_a_packed_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, to a model that loads without bitsandbytes and embeds as the trained one does."""
    original = sentence_base("bert")
    base = copy_of(original)
    quantised(original, "nf4").save_pretrained(base)
    adapter, merged = sentence_adapter(original, lora_config("bert")), tmp_path / "merged"
    before = snapshot(base)
    arguments = ["merge", str(adapter), str(merged), "--base", str(base)]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "is stored packed, quantised with bitsandbytes (4-bit)" in error
    assert "--base-precision dequantized" in error
    assert "--base-precision original" in error
    assert not merged.exists()
    assert main([*arguments, "--base-precision", "original"]) == 2
    assert f"Pass the original model with --base {original}" in capsys.readouterr().err
    assert main([*arguments, "--base-precision", "dequantized"]) == 0
    printed = capsys.readouterr()
    assert "base dequantised: 13 layers from 4-bit nf4 to float32" in printed.out
    assert not printed.err
    assert snapshot(base) == before
    config = json.loads((merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    trained = _embed_live(base, adapter)
    program = (
        "import sys, json\nsys.modules['bitsandbytes'] = None\nfrom sentence_transformers import SentenceTransformer\n"
        f"print(json.dumps(SentenceTransformer({str(merged)!r}, device='cpu').encode({TEXTS!r}).tolist()))"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    found = torch.tensor(json.loads(run.stdout.splitlines()[-1]))
    torch.testing.assert_close(found, trained, atol=2e-6, rtol=0)


def test_verify_compares_with_the_choice_that_was_merged(tmp_path: Path) -> None:
    """Weights and embeddings, against base + adapter where the base is dequantised."""
    original = sentence_base("bert")
    adapter = saying(sentence_adapter(original, lora_config("bert")), "nf4-double")
    merged = merge(adapter, tmp_path / "merged", base=original, base_precision="dequantized").output
    right = verify(merged, adapter, base=original, base_precision="dequantized")
    assert right.passed
    assert {"probes", "files"} < {check.name for check in right.checks}
    assert len(right.checks) > 6  # embeddings too


def test_verify_knows_a_base_of_several_dtypes(tmp_path: Path) -> None:
    """Norms in float32 beside dequantised layers in bfloat16: each tensor keeps its own, and verify expects that."""
    original = sentence_base("bert", "bfloat16")
    base = copy_of(original)
    quantised(original, "nf4", bnb_4bit_compute_dtype="bfloat16").save_pretrained(base)
    tensors = load_file(base / "model.safetensors")
    norms = {name: value.float() for name, value in tensors.items() if "LayerNorm" in name}
    change_tensors(base / "model.safetensors", norms)
    adapter = sentence_adapter(original, lora_config("bert"))
    merged = merge(adapter, tmp_path / "merged", base=base, base_precision="dequantized").output
    dtypes = {name: dtype for name, (dtype, _, _) in stored_tensors(merged).items()}
    assert set(dtypes.values()) == {"F32", "BF16"}
    assert {name for name, dtype in dtypes.items() if dtype == "F32"} == set(norms)
    assert verify(merged, adapter, base=base, base_precision="dequantized").passed


@silent()
def _embed_live(base: Path, adapter: Path) -> Tensor:
    """The packed Sentence Transformers model with PEFT's adapter, in training mode."""
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(base), device="cpu")
    model[0].model = PeftModel.from_pretrained(model[0].model, str(adapter))
    training_mode(model)
    features = model.preprocess(TEXTS)
    with torch.no_grad():
        found: Tensor = model(features)["sentence_embedding"]
    return found


def test_no_layer_of_a_base_is_quantised_that_bitsandbytes_cannot(tmp_path: Path) -> None:
    """A base of embeddings and norms alone, once everything is left out."""
    said = saying(adapter_for("bert"), "nf4", llm_int8_skip_modules=[*TARGETS["bert"]])
    with pytest.raises(UnusableInput, match="has no layer that bitsandbytes would quantise"):
        plan_merge(said, plain_base("bert"), base_precision="dequantized")
