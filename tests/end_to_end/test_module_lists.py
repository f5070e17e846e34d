"""Whatever stands behind the transformer comes along: pooling of every mode, heads of every kind, a static encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from helpers.merging import cli, merged
from helpers.models import HIDDEN, LAYERS, TEXTS, lora_config, new_folder, plain_base, quiet, tokenizer, train_a_little

Modules = Callable[[nn.Module], list[nn.Module]]


def _pooled(*modes: str) -> Modules:
    return lambda transformer: [transformer, Pooling(HIDDEN, modes if len(modes) > 1 else modes[0])]


LISTS: dict[str, Modules] = {
    **{mode: _pooled(mode) for mode in ("cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")},
    "mean and cls": _pooled("mean", "cls"),
    "CNN": lambda transformer: [transformer, modules.CNN(HIDDEN, 16, [1, 3]), Pooling(32, "mean")],
    "LayerNorm": lambda transformer: [transformer, Pooling(HIDDEN, "mean"), modules.LayerNorm(HIDDEN)],
    "WeightedLayerPooling": lambda transformer: [
        transformer,
        modules.WeightedLayerPooling(HIDDEN, num_hidden_layers=LAYERS, layer_start=1),
        Pooling(HIDDEN, "mean"),
    ],
    "Router": lambda transformer: [
        Router.for_query_document(
            query_modules=[modules.StaticEmbedding(tokenizer(), embedding_dim=HIDDEN)],
            document_modules=[transformer, Pooling(HIDDEN, "mean")],
        )
    ],
}


@pytest.mark.parametrize("name", LISTS)
def test_modules_behind_the_transformer(name: str) -> None:
    torch.manual_seed(0)
    base, adapter = new_folder("base"), new_folder("adapter")
    with quiet():
        SentenceTransformer(modules=LISTS[name](Transformer(str(plain_base("bert"))))).save_pretrained(str(base))
        model = SentenceTransformer(str(base), device="cpu")
        _transformer(model).add_adapter(lora_config("bert"))
        train_a_little(model)  # the heads too: the adapter's directory has what became of them
        model.save_pretrained(str(adapter))

    output = merged(adapter, "--base", base)

    for encode in ("encode_query", "encode_document"):
        before = getattr(model, encode)(TEXTS, convert_to_tensor=True)
        after = getattr(SentenceTransformer(str(output), device="cpu"), encode)(TEXTS, convert_to_tensor=True)
        torch.testing.assert_close(after, before, rtol=1e-5, atol=5e-6)
    proof = cli("verify", output, "--adapter", adapter, "--base", base)
    assert proof.code == 0, proof.out + proof.err
    assert _kinds(output) == _kinds(base)


def _transformer(model: Any) -> Any:
    first = model[0]
    return (first.sub_modules["document"][0] if isinstance(first, Router) else first).auto_model


def _kinds(folder: Path) -> list[str]:
    return [type(module).__name__ for module in SentenceTransformer(str(folder), device="cpu").modules()]
