"""All the ways in which a model encodes, in one array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest

from helpers.models import HIDDEN, VOCABULARY, new_folder, plain_base, quiet, sentence_base
from ingraft.errors import UnusableInput
from ingraft.verification.encoding import outputs
from ingraft.verification.texts import TEXTS, read_texts

WORDS = ["fever and cough", "heart failure", "blood pressure", "open fracture of the left hand"] * 3


def model_of(name: str, folder: Path) -> Any:
    import sentence_transformers

    with quiet():
        return getattr(sentence_transformers, name)(str(folder), device="cpu").eval()


def test_embeddings_with_and_without_each_prompt() -> None:
    model = model_of("SentenceTransformer", sentence_base("bert"))

    found = outputs(model, "SentenceTransformer", WORDS)

    assert found.rows.shape == (len(WORDS) + 8, HIDDEN)
    assert list(found.of_text) == [*range(len(WORDS)), *range(8)]
    expected = model.encode(WORDS[:8], prompt_name="query", show_progress_bar=False)
    numpy.testing.assert_allclose(found.rows[len(WORDS) :], expected, rtol=1e-5, atol=1e-6)
    assert not numpy.allclose(found.rows[:8], expected, atol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scores_of_pairs_without_an_activation() -> None:
    model = model_of("CrossEncoder", plain_base("bert", head="AutoModelForSequenceClassification"))
    labels = model.model.config.num_labels

    found = outputs(model, "CrossEncoder", WORDS)

    assert found.rows.shape == (len(WORDS), labels)
    pair = (WORDS[0], WORDS[3])
    expected = model.predict([pair], activation_fn=lambda x: x, show_progress_bar=False)
    numpy.testing.assert_allclose(found.rows[0], numpy.ravel(expected), rtol=1e-4, atol=1e-5)


def test_sparse_rows_are_as_wide_as_the_vocabulary() -> None:
    model = model_of("SparseEncoder", plain_base("bert", head="AutoModelForMaskedLM"))

    found = outputs(model, "SparseEncoder", WORDS)

    assert found.rows.shape == (len(WORDS), VOCABULARY)
    assert numpy.any(found.rows > 0)


def test_every_token_of_every_text_is_a_row_of_a_multi_vector_model() -> None:
    model = model_of("MultiVectorEncoder", plain_base("bert"))

    found = outputs(model, "MultiVectorEncoder", WORDS[:4])

    queries = model.encode_query(WORDS[:4], show_progress_bar=False)
    documents = model.encode_document(WORDS[:4], show_progress_bar=False)
    lengths = [len(rows) for rows in (*queries, *documents)]
    assert len(found.rows) == sum(lengths)
    assert list(numpy.bincount(found.of_text)) == [a + b for a, b in zip(lengths[:4], lengths[4:], strict=True)]


def test_our_texts_are_many_and_different() -> None:
    assert len(TEXTS) == len(set(TEXTS)) == 32
    assert all(text.strip() for text in TEXTS)


def test_texts_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("fever\n\n  Grippe \n", encoding="utf-8")

    assert read_texts(path) == ["fever", "Grippe"]


@pytest.mark.parametrize(("content", "message"), [(b"\n \n", "holds no text"), (b"\xff\xfe\x00", "not UTF-8")])
def test_files_without_texts_are_refused(content: bytes, message: str) -> None:
    path = new_folder("texts") / "texts"
    path.write_bytes(content)
    with pytest.raises(UnusableInput, match=message):
        read_texts(path)
    with pytest.raises(UnusableInput, match=r"cannot be read: .*\. Name a file"):
        read_texts(path.parent / "absent")
