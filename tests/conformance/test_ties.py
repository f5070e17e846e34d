"""Vocabularies that grew or shrank, trained tokens, and embeddings whose numbers an output layer shares."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers

from conformance.adapters import (
    TUNERS,
    Trained,
    by_peft,
    by_sentence_transformers,
    config_for,
    disturb,
    lora,
    save_by_peft,
)
from conformance.architectures import ARCHITECTURES, VOCABULARY, Layout, base
from conformance.comparison import check_parameters, error, exact_parameters, in_float64
from conformance.merging import LIMITS, NOISE, check_lora, check_merge
from helpers.models import new_folder, quiet
from ingraft.pipeline import merge

TOKENS = [7, 60, 11, 12, 90, 91, 92]


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


@pytest.mark.parametrize("ensure", [False, True])
@pytest.mark.parametrize(
    ("architecture", "layout"), [("qwen3-lm", "plain"), ("bert-mlm", "plain"), ("bert-mlm", "sentence")]
)
def test_lora_on_an_embedding_that_an_output_layer_shares(architecture: str, layout: Layout, ensure: bool) -> None:
    made, folder = ARCHITECTURES[architecture], base(architecture, layout=layout)
    config = lora(target_modules=[made.embedding, *made.square], ensure_weight_tying=ensure)
    if layout == "sentence":
        trained = by_sentence_transformers(folder, config, model_class=made.sentence)
    else:
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
