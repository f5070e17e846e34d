"""The vectors of a static model, against the teacher's own answers to single tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from helpers.exports import cross_encoder, last_token_model, pooled_model, with_tokenizer
from helpers.models import plain_base
from ingraft.errors import UnusableInput
from ingraft.exporters.distil import Distilled, check_distillable, distil
from ingraft.exporters.source import open_layout, open_source
from ingraft.progress import Silent


def distilled(model: Path, dimensions: int | None = None) -> Distilled:
    return distil(open_source(model, trust_remote_code=False), dimensions=dimensions, shown=Silent())


def names(found: Distilled) -> list[str]:
    vocabulary = found.tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(found.tokens))
    return sorted(vocabulary, key=vocabulary.__getitem__)


def answers(model: Path, tokens: list[str]) -> Any:
    """What transformer and pooling make of each token between [CLS] and [SEP]: float32 [tokens, width]."""
    from sentence_transformers import SentenceTransformer

    live = SentenceTransformer(str(model), device="cpu")
    own = live[0].tokenizer
    rows = [[own.cls_token_id, own.convert_tokens_to_ids(token), own.sep_token_id] for token in tokens]
    features: dict[str, Any] = {"input_ids": torch.tensor(rows), "modality": "text"}
    features["attention_mask"] = torch.ones_like(features["input_ids"])
    with torch.no_grad():
        return live[1](live[0](features))["sentence_embedding"].numpy()


def rarity(count: int) -> Any:
    """SIF over Zipf's law: a / (a + p), p falling with the rank in the vocabulary."""
    share = 1 / numpy.arange(2, count + 2)
    return (1e-4 / (1e-4 + share / share.sum()))[:, None]


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    [("bert", "mean"), ("bert", "cls"), ("modernbert", "mean"), ("qwen3", "lasttoken"), ("gpt2", "mean")],
)
def test_vectors_are_answers_to_single_tokens(architecture: str, pooling: str) -> None:
    model = pooled_model(architecture, pooling)
    found = distilled(model)

    # 37 tokens have no 64 principal components: model2vec leaves the answers as they are.
    expected = answers(model, names(found)) * rarity(found.tokens)
    assert found.pooling == pooling
    assert found.vectors.dtype == numpy.float32
    assert numpy.abs(found.vectors - expected).max() < 1e-5 * numpy.abs(expected).max()


def test_principal_components() -> None:
    model = pooled_model()
    found = distilled(model, dimensions=8)

    rows = answers(model, names(found)).astype(numpy.float64)
    left, sizes, _ = numpy.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = left[:, :8] * sizes[:8] * rarity(len(rows))
    # The sign of a component is free; products of rows are not.
    assert numpy.allclose(found.vectors @ found.vectors.T, expected @ expected.T, atol=1e-4 * sizes[0] ** 2)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_tokens_of_other_tokenizers(kind: str) -> None:
    model = with_tokenizer(pooled_model(), kind)
    found = distilled(model, dimensions=4)

    tokens = names(found)
    rows = answers(model, tokens).astype(numpy.float64)
    left, sizes, _ = numpy.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = left[:, :4] * sizes[:4] * rarity(len(rows))
    assert numpy.allclose(found.vectors @ found.vectors.T, expected @ expected.T, atol=1e-4 * sizes[0] ** 2)
    text = "high blood pressure"
    teacher = open_source(model, trust_remote_code=False).live[0].tokenizer
    # (model2vec puts a space before the first word, so that it is the word that stands inside a text.)
    assert found.tokenizer.encode(text, add_special_tokens=False).tokens[-2:] == teacher.tokenize(text)[-2:]


def test_teacher_is_left_as_it_was() -> None:
    source = open_source(pooled_model(), trust_remote_code=False)
    before = {name: value.clone() for name, value in source.live.state_dict().items()}
    expected = source.live.encode(["fever and cough"])

    distil(source, dimensions=None, shown=Silent())

    assert all(torch.equal(value, before[name]) for name, value in source.live.state_dict().items())
    assert (source.live.encode(["fever and cough"]) == expected).all()


def test_progress_is_told_and_nothing_else_is(capfd: pytest.CaptureFixture[str]) -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.stages: list[tuple[str, int]] = []
            self.count = 0

        def begin(self, stage: str, total: int) -> None:
            self.stages.append((stage, total))

        def advance(self, count: int) -> None:
            self.count += count

    source = open_source(pooled_model(), trust_remote_code=False)
    capfd.readouterr()
    heard = Heard()
    found = distil(source, dimensions=None, shown=heard)

    assert heard.stages == [("distil", found.tokens)]
    assert heard.count == found.tokens
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("pooling", ["max", "weightedmean", "mean_sqrt_len_tokens"])
def test_other_poolings_are_refused(pooling: str) -> None:
    with pytest.raises(UnusableInput, match=f"pools by {pooling}; model2vec distils mean, cls, lasttoken"):
        distilled(pooled_model("bert", pooling))


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(UnusableInput, match="has 64 dimensions; 65 cannot be distilled"):
        distilled(pooled_model(), dimensions=65)
    with pytest.raises(UnusableInput, match="has 37 tokens, too few for 40 principal components"):
        distilled(pooled_model(), dimensions=40)


def test_what_model2vec_raises_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import model2vec.distill

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no such tokenizer\nand a page of advice")

    monkeypatch.setattr(model2vec.distill, "distill_from_model", broken)
    with pytest.raises(UnusableInput, match=r"cannot be distilled: no such tokenizer$"):
        distilled(pooled_model())


def test_what_is_more_than_transformer_and_pooling_is_refused() -> None:
    refused = {
        last_token_model("qwen3", "left"): "consists of Transformer, Pooling, Dense, Normalize; model2vec distils",
        cross_encoder(): "is a CrossEncoder; a static model is distilled from a SentenceTransformer",
        plain_base("bert"): "is a plain transformers model; a static model is distilled from",
    }
    for model, words in refused.items():
        with pytest.raises(UnusableInput, match=words):
            check_distillable(open_layout(model))
    check_distillable(open_layout(pooled_model(normalize=False)))
