"""The unmerged model: it answers like PEFT's own where that is right, and arrives whole where libraries lose parts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.files import edit_json
from helpers.handmade import change_tensors
from helpers.models import (
    HIDDEN,
    TEXTS,
    VOCABULARY,
    copy_of,
    embed_adapted,
    fill_weights,
    lora_config,
    new_folder,
    plain_adapter,
    plain_base,
    quiet,
    sentence_adapter,
    sentence_base,
    tokenizer,
    train_a_little,
)
from ingraft.adapted import load_adapted
from ingraft.errors import UnusableInput
from ingraft.machine import available_memory


def embeddings(model: Any, **options: Any) -> Tensor:
    found: Tensor = model.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False, **options)
    return found


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-5, atol=2e-6)


def base_embeddings(base: Path) -> Tensor:
    from sentence_transformers import SentenceTransformer

    with quiet():
        return embeddings(SentenceTransformer(str(base), device="cpu"))


@pytest.mark.parametrize("architecture", ["bert", "qwen2", "gpt2"])
def test_it_answers_like_the_base_with_pefts_model_in_it(architecture: str) -> None:
    base = sentence_base(architecture)
    adapter = sentence_adapter(base, lora_config(architecture))

    model = load_adapted(adapter, base)

    assert not any(module.training for module in model.modules())
    assert_close(embeddings(model), embed_adapted(base, adapter))
    assert_close(embeddings(model, prompt_name="query"), embed_adapted(base, adapter, prompt="query"))
    assert not torch.allclose(embeddings(model), base_embeddings(base), atol=1e-2)


def test_the_base_is_the_one_that_the_adapter_names() -> None:
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert"))

    assert_close(embeddings(load_adapted(adapter)), embed_adapted(base, adapter))


def test_float64_computes_what_float32_does_more_exactly() -> None:
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert"))

    model = load_adapted(adapter, base, dtype="float64")

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert_close(embeddings(model), embed_adapted(base, adapter))


def test_half_precision_is_widened_unless_it_is_asked_for() -> None:
    base = sentence_base("bert", "bfloat16")
    adapter = sentence_adapter(base, lora_config("bert"))

    wide, stored = load_adapted(adapter, base), load_adapted(adapter, base, dtype="stored")

    query: Any = "encoder.layer.0.attention.self.query.base_layer.weight"
    assert wide[0].model.get_parameter(query).dtype == torch.float32  # type: ignore[union-attr]
    assert stored[0].model.get_parameter(query).dtype == torch.bfloat16  # type: ignore[union-attr]
    torch.testing.assert_close(
        wide[0].model.get_parameter(query),
        stored[0].model.get_parameter(query).float(),  # type: ignore[union-attr]
    )


def test_a_trained_dense_comes_from_the_adapters_directory() -> None:
    base = sentence_base("bert", dense=True)
    adapter = sentence_adapter(base, lora_config("bert"), train_dense=True)

    model: Any = load_adapted(adapter, base)

    saved = load_file(adapter / "2_Dense" / "model.safetensors")["linear.weight"]
    assert torch.equal(model[2].linear.weight, saved)
    assert not torch.equal(saved, load_file(base / "2_Dense" / "model.safetensors")["linear.weight"])


def test_a_bare_adapter_takes_pooling_and_prompts_of_the_base() -> None:
    base = sentence_base("bert")
    adapter = plain_adapter(base, lora_config("bert"))

    model = load_adapted(adapter, base)

    assert model.prompts["query"] == "search query "
    assert_close(embeddings(model), embed_adapted(base, adapter))


def test_an_adapter_that_brings_its_modules_is_put_on_a_plain_base() -> None:
    plain = plain_base("bert")
    adapter = sentence_adapter(sentence_base("bert"), lora_config("bert"))

    model = load_adapted(adapter, plain)

    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert_close(embeddings(model), embed_adapted(sentence_base("bert"), adapter))


def test_dora_magnitudes_arrive() -> None:
    """Sentence Transformers' own loading leaves them as they were before training, without an error."""
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert", use_dora=True))

    model: Any = load_adapted(adapter, base)

    key = "encoder.layer.0.attention.self.query.lora_magnitude_vector"
    live = model[0].model.get_parameter(f"{key}.default.weight")
    assert torch.equal(live, load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{key}"])
    assert_close(embeddings(model), embed_adapted(base, adapter))


@pytest.mark.parametrize(
    ("architecture", "head", "changes"),
    [
        ("bert", "AutoModelForMaskedLM", {"rank_pattern": {"bert.encoder.layer.0.attention.self.query": 3}}),
        ("qwen2", "AutoModelForCausalLM", {}),
        ("qwen2", "AutoModelForCausalLM", {"layers_to_transform": [1], "target_modules": ["q_proj", "down_proj"]}),
        ("qwen2", "AutoModelForCausalLM", {"target_modules": ["q_proj", "lm_head"]}),
    ],
)
def test_an_adapter_of_another_class_fits_by_its_tensors(architecture: str, head: str, changes: dict[str, Any]) -> None:
    """Names with another prefix; rules that match nothing on the class without a head; an adapted head left aside."""
    base = plain_base(architecture, head=head)
    adapter = plain_adapter(base, lora_config(architecture, **{"task_type": None, **changes}), head=head)

    model: Any = load_adapted(adapter, base)

    with torch.no_grad():
        for text in TEXTS:
            batch = tokenizer()(text, return_tensors="pt", return_token_type_ids=False)
            assert_close(model[0].model(**batch).last_hidden_state, below_head(base, adapter, head)(batch))


@functools.cache
@quiet()
def below_head(base: Path, adapter: Path, head: str) -> Callable[[Any], Tensor]:
    """The hidden states below the head, of the class that the adapter was trained with."""
    import transformers

    trained = getattr(transformers, head).from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(trained, adapter).get_base_model().eval()
    return lambda batch: adapted.base_model(**batch).last_hidden_state


def test_ranks_that_adalora_pruned() -> None:
    base = sentence_base("bert")
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=1, total_step=10, target_modules=["query"], task_type="FEATURE_EXTRACTION"
    )
    adapter = copy_of(plain_adapter(base, config))
    keys = [f"encoder.layer.{n}.attention.self.query" for n in range(2)]
    tensors = load_file(adapter / "adapter_model.safetensors")
    kept = {keys[0]: [True, False, True, False], keys[1]: [False] * 4}
    for module, mask in kept.items():
        at = torch.tensor(mask)
        for part in ("A", "E"):
            tensors[f"base_model.model.{module}.lora_{part}"] = tensors[f"base_model.model.{module}.lora_{part}"][at]
        tensors[f"base_model.model.{module}.lora_B"] = tensors[f"base_model.model.{module}.lora_B"][:, at].contiguous()
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    edit_json(adapter / "adapter_config.json", rank_pattern={f"{name}.lora_E": mask for name, mask in kept.items()})

    model: Any = load_adapted(adapter, base)

    layer = model[0].model.get_submodule(keys[0])
    assert torch.equal(layer.lora_A["default"], tensors[f"base_model.model.{keys[0]}.lora_A"])
    assert layer.lora_E["default"].shape == (2, 1)
    assert model[0].model.get_submodule(keys[1]).lora_A["default"].shape[0] == 0
    assert_close(embeddings(model), embed_adapted(base, adapter))


def test_modules_that_the_adapter_holds_whole_take_the_bases_place() -> None:
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert", modules_to_save=["word_embeddings", "output.LayerNorm"]))

    assert_close(embeddings(load_adapted(adapter, base)), embed_adapted(base, adapter))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_trained_biases_take_the_bases_place(bias: str) -> None:
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert", bias=bias))

    assert_close(embeddings(load_adapted(adapter, base)), embed_adapted(base, adapter))


def test_retrained_tokens() -> None:
    base = sentence_base("bert")
    rows = sorted(set(tokenizer()(TEXTS[0])["input_ids"]))
    adapter = sentence_adapter(base, lora_config("bert", trainable_token_indices={"word_embeddings": rows}))

    assert_close(embeddings(load_adapted(adapter, base)), embed_adapted(base, adapter))


@quiet()
def grown_adapter(base: Path) -> Path:
    """An adapter that was trained with three more tokens than the base has."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(base)
    model.resize_token_embeddings(VOCABULARY + 3, mean_resizing=False)
    adapted = peft.get_peft_model(model, lora_config("bert"))
    train_a_little(adapted)
    folder = new_folder("grown")
    adapted.save_pretrained(folder, save_embedding_layers=True)
    return folder


def test_a_grown_vocabulary() -> None:
    base = sentence_base("bert")
    adapter = grown_adapter(base)

    model: Any = load_adapted(adapter, base)

    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.embeddings.word_embeddings.weight"]
    assert saved.shape == (VOCABULARY + 3, HIDDEN)
    assert torch.equal(model[0].model.embeddings.word_embeddings.weight, saved)


@functools.cache
def reranker(head_trained: bool) -> tuple[Path, Path]:
    """A base without a head, and an adapter for a CrossEncoder on it that does or does not bring one."""
    from sentence_transformers import CrossEncoder

    with quiet():
        model = CrossEncoder(str(plain_base("bert")), device="cpu", num_labels=1)
        saved = ["classifier"] if head_trained else None
        model.add_adapter(lora_config("bert", task_type="SEQ_CLS", modules_to_save=saved))
        train_a_little(model.model)
        folder = new_folder("reranker")
        model.save_pretrained(str(folder))
    return plain_base("bert"), folder


def test_a_head_that_came_with_the_adapter() -> None:
    base, adapter = reranker(head_trained=True)

    model: Any = load_adapted(adapter, base)

    assert type(model).__name__ == "CrossEncoder"
    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert torch.equal(model[0].model.classifier.modules_to_save["default"].weight, saved)


def test_a_head_that_is_stored_nowhere_is_refused() -> None:
    base, adapter = reranker(head_trained=False)

    with pytest.raises(UnusableInput, match=r"classifier.* is neither in the base .* random") as caught:
        load_adapted(adapter, base)
    assert "modules_to_save" in caught.value.hint


@functools.cache
def sparse_base() -> Path:
    """A SPLADE model: a masked language model whose output layer is tied to its embeddings and has a bias."""
    from sentence_transformers import SparseEncoder

    with quiet():
        model = SparseEncoder(str(plain_base("bert", head="AutoModelForMaskedLM")), device="cpu")
        fill_weights(model[0].model)  # type: ignore[arg-type]
        folder = new_folder("sparse")
        model.save_pretrained(str(folder))
    return folder


def test_a_tied_output_layer_with_retrained_tokens_has_no_bias() -> None:
    """PEFT's forward of the tied layer drops it, though its merge keeps it: the forward is what was trained."""
    from sentence_transformers import SparseEncoder

    base, adapter = sparse_base(), new_folder("sparse-adapter")
    tokens = {"word_embeddings": [5, 7, 9]}
    with quiet():
        trained = SparseEncoder(str(base), device="cpu")
        trained.add_adapter(lora_config("bert", target_modules=["query"], trainable_token_indices=tokens))
        train_a_little(trained[0])
        trained.save_pretrained(str(adapter))

    model: Any = load_adapted(adapter, base)

    decoder = model[0].model.cls.predictions.decoder
    x = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(0))
    rows = load_file(adapter / "adapter_model.safetensors")[
        "base_model.model.bert.embeddings.word_embeddings.token_adapter.trainable_tokens_delta"
    ]
    weight = load_file(base / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    weight[[5, 7, 9]] = rows
    assert load_file(base / "model.safetensors")["cls.predictions.bias"].abs().min() > 0
    torch.testing.assert_close(decoder(x), x @ weight.T)


# What is refused


def test_a_missing_tensor_is_named() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    lost = "base_model.model.encoder.layer.1.attention.self.key.lora_B.weight"
    change_tensors(adapter / "adapter_model.safetensors", {lost: None})

    with pytest.raises(UnusableInput, match=f"has no tensor {lost}, which its config asks for"):
        load_adapted(adapter, base)


def test_a_lost_layer_is_named() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert", target_modules=["query"])))
    module = "encoder.layer.1.attention.self.query"
    changes = {f"base_model.model.{module}.lora_{part}.weight": None for part in "AB"}
    change_tensors(adapter / "adapter_model.safetensors", changes)

    with pytest.raises(UnusableInput, match=f"has no tensors for {module}"):
        load_adapted(adapter, base)


@pytest.mark.parametrize("key", ["encoder.layer.0.mystery.lora_A.weight", "encoder.layer.0.mystery.weight"])
def test_a_stray_tensor_is_named(key: str) -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    change_tensors(adapter / "adapter_model.safetensors", {f"base_model.model.{key}": torch.ones(8, HIDDEN)})

    with pytest.raises(UnusableInput, match=r"encoder.layer.0.mystery.* fits nothing"):
        load_adapted(adapter, base)


def test_a_tensor_of_a_module_that_has_no_place_for_it_is_named() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    stray = "base_model.model.encoder.layer.0.attention.self.query.lora_magnitude_vector"
    change_tensors(adapter / "adapter_model.safetensors", {stray: torch.ones(HIDDEN)})

    with pytest.raises(UnusableInput, match=r"PEFT has no place for .*lora_magnitude_vector"):
        load_adapted(adapter, base)


def test_not_a_number_is_named() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    key = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
    value = load_file(adapter / "adapter_model.safetensors")[key]
    value[1, 2] = float("nan")
    change_tensors(adapter / "adapter_model.safetensors", {key: value})

    with pytest.raises(UnusableInput, match=f"{key} holds NaN or infinity"):
        load_adapted(adapter, base)


def test_an_adapter_of_another_base_is_refused() -> None:
    adapter = sentence_adapter(sentence_base("qwen2"), lora_config("qwen2"))

    with pytest.raises(UnusableInput, match=r"fits nothing in .*bert") as caught:
        load_adapted(adapter, sentence_base("bert"))
    assert "--base" in caught.value.hint


def test_a_rank_that_the_tensors_do_not_have_is_refused() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    edit_json(adapter / "adapter_config.json", r=5)

    with pytest.raises(UnusableInput, match=r"PEFT cannot load it: .*size mismatch"):
        load_adapted(adapter, base)


def test_a_method_that_no_merge_can_hold_is_refused() -> None:
    base = sentence_base("bert")
    adapter = copy_of(sentence_adapter(base, lora_config("bert")))
    edit_json(adapter / "adapter_config.json", init_lora_weights="pissa_niter_4")

    with pytest.raises(UnusableInput, match="cannot be merged"):
        load_adapted(adapter, base)


def test_a_quantised_base_is_refused() -> None:
    base = copy_of(sentence_base("bert"))
    edit_json(base / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})

    with pytest.raises(UnusableInput, match="quantised with bitsandbytes"):
        load_adapted(sentence_adapter(sentence_base("bert"), lora_config("bert")), base)


def test_too_little_memory_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft.adapted import load

    assert available_memory() is not None
    monkeypatch.setattr(load, "available_memory", lambda: 1000)

    with pytest.raises(UnusableInput, match=r"takes about .* of memory, 1 kB are free") as caught:
        load_adapted(sentence_adapter(sentence_base("bert"), lora_config("bert")))
    assert "weight checks" in caught.value.hint


def test_a_base_that_cannot_be_loaded_says_why() -> None:
    base = copy_of(sentence_base("bert"))
    (base / "tokenizer.json").write_text("{}")

    with pytest.raises(UnusableInput, match=r"The base model .* cannot be loaded: "):
        load_adapted(plain_adapter(sentence_base("bert"), lora_config("bert")), base)


def test_two_runs_give_the_same_numbers() -> None:
    base = sentence_base("bert")
    adapter = sentence_adapter(base, lora_config("bert"))

    first, second = (embeddings(load_adapted(adapter, base)) for _ in range(2))

    assert numpy.array_equal(first.numpy(), second.numpy())
