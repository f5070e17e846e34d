"""Which live transformer came from which folder, behind a Router or not; and the directory it is loaded from."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.files import snapshot
from helpers.models import HIDDEN, lora_config, new_folder, plain_base, quiet, sentence_adapter, sentence_base
from ingraft.adapted import assemble, load_adapted
from ingraft.adapted.assemble import assembled
from ingraft.adapted.transformers import transformers_by_folder
from ingraft.adapter import open_adapters
from ingraft.base_model import open_base
from ingraft.errors import UnusableInput
from ingraft.layout import Layout, Module, read_layout


@functools.cache
def routed() -> tuple[Path, Path]:
    """A base with a transformer for queries and one for documents, and an adapter on both."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    with quiet():
        parts = [Transformer(str(plain_base("bert"))) for _ in range(2)]
        with torch.no_grad():
            parts[1].model.embeddings.word_embeddings.weight.mul_(-1)
        router = Router.for_query_document([parts[0]], [parts[1]])
        model = SentenceTransformer(modules=[router, Pooling(HIDDEN, "mean")], device="cpu")
        base, adapter = new_folder("router"), new_folder("router-adapter")
        model.save_pretrained(str(base))
        for number, part in enumerate(parts):
            part.model.add_adapter(lora_config("bert", target_modules=["query"]))
            with torch.no_grad():
                for name, parameter in part.model.named_parameters():
                    if "lora_" in name:
                        parameter.fill_(0.01 * (number + 1))
        model.save_pretrained(str(adapter))
    return base, adapter


def test_each_route_gets_its_own_adapter() -> None:
    base, adapter = routed()

    model: Any = load_adapted(adapter, base)

    for route, size in (("query", 0.01), ("document", 0.02)):
        part = model[0].sub_modules[route][0].model
        layer = part.encoder.layer[0].attention.self.query
        assert torch.all(layer.lora_A["default"].weight == size)
        stored = load_file(base / f"{route}_0_Transformer" / "model.safetensors")
        assert torch.equal(layer.base_layer.weight, stored["encoder.layer.0.attention.self.query.weight"])
        assert torch.equal(part.embeddings.word_embeddings.weight, stored["embeddings.word_embeddings.weight"])


def test_a_count_that_does_not_fit_is_refused() -> None:
    from sentence_transformers import SentenceTransformer

    with quiet():
        live = SentenceTransformer(str(sentence_base("bert")), device="cpu")
    layout = read_layout(sentence_base("bert"))
    assert list(transformers_by_folder(live, layout)) == [""]
    twice = Layout(layout.root, (*layout.modules, Module("9", "x.Transformer", "9_Transformer")), "", None)

    with pytest.raises(UnusableInput, match="has 2 transformers, the model loaded from it has 1"):
        transformers_by_folder(live, twice)


@pytest.mark.parametrize("links", [True, False])
def test_the_directory_looks_like_the_output_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    base = sentence_base("bert", shards=2, dense=True)
    adapter = sentence_adapter(base, lora_config("bert"), train_dense=True)
    opened = open_adapters(adapter)
    before = snapshot(base), snapshot(adapter)
    if not links:
        monkeypatch.setattr(assemble.Path, "symlink_to", _no_links)

    with assembled(opened, [open_base(opened[0], base)]) as directory:
        root = directory.layout.root
        names = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        assert any(path.is_symlink() for path in root.iterdir()) == links
        for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"):
            assert (root / shard).read_bytes() == (base / shard).read_bytes()
        dense = "2_Dense/model.safetensors"
        assert (root / dense).read_bytes() == (adapter / dense).read_bytes() != (base / dense).read_bytes()
        assert not {"adapter_config.json", "adapter_model.safetensors"} & names
        assert directory.folders == ("",)

    assert not root.exists()
    assert (snapshot(base), snapshot(adapter)) == before


def _no_links(*_: Any, **__: Any) -> None:
    raise OSError("links are not supported here")
