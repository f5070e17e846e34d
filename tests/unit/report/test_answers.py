"""What a page says of the models' answers, against the same computed by hand."""

from __future__ import annotations

import numpy
import pytest

from ingraft.report.answers import Comparison, compare_answers
from ingraft.verification.answers import Answers


def answers(count: int = 12, width: int = 6, *, model_class: str = "SentenceTransformer", rows: int = 1) -> Answers:
    random = numpy.random.default_rng(0)
    base = random.normal(size=(count * rows, width)).astype(numpy.float32)
    adapted = base + random.normal(size=base.shape).astype(numpy.float32)
    merged = adapted + 1e-5 * random.normal(size=base.shape).astype(numpy.float32)
    texts = tuple(f"text {number}" for number in range(count))
    return Answers(model_class, texts, numpy.repeat(numpy.arange(count), rows), base, adapted, merged)


def compared(given: Answers) -> Comparison:
    found = compare_answers(given)
    assert found is not None
    return found


def cosine(x: numpy.ndarray, y: numpy.ndarray) -> float:
    return float(x.astype(float) @ y.astype(float) / numpy.linalg.norm(x) / numpy.linalg.norm(y))


def test_every_pair_of_texts() -> None:
    given = answers(5)

    found = compared(given)

    assert not found.sampled
    assert [pair.texts for pair in found.pairs] == [
        (f"text {i}", f"text {j}") for i in range(5) for j in range(i + 1, 5)
    ]
    last = found.pairs[-1]
    assert last.base == pytest.approx(cosine(given.base[3], given.base[4]), abs=1e-6)
    assert last.adapted == pytest.approx(cosine(given.adapted[3], given.adapted[4]), abs=1e-6)
    assert last.merged == pytest.approx(cosine(given.merged[3], given.merged[4]), abs=1e-6)
    assert last.moved == last.adapted - last.base


def test_many_texts_are_sampled_and_no_text_is_paired_with_itself() -> None:
    found = compared(answers(100))

    assert found.sampled
    assert len(found.pairs) == 800
    assert all(first != second for first, second in (pair.texts for pair in found.pairs))


def test_distances_are_over_all_rows_of_a_text() -> None:
    given = answers(4, rows=3)

    found = compared(given).distances[2]

    part = slice(6, 9)
    size = numpy.linalg.norm(given.adapted[part])
    assert found.text == "text 2"
    assert found.merged == pytest.approx(numpy.linalg.norm(given.merged[part] - given.adapted[part]) / size, rel=1e-4)
    assert found.base == pytest.approx(numpy.linalg.norm(given.base[part] - given.adapted[part]) / size, rel=1e-4)


def test_similarities_are_those_of_the_texts_first_rows() -> None:
    """The rows after it are the same text with prompts."""
    given = answers(4)
    with_prompts = Answers(
        given.model_class,
        given.texts,
        numpy.concatenate([given.of_text, given.of_text[:2]]),
        *(numpy.concatenate([rows, -rows[:2]]) for rows in (given.base, given.adapted, given.merged)),
    )

    assert compared(with_prompts).pairs == compared(given).pairs


def test_a_multi_vector_models_texts_are_their_tokens_mean() -> None:
    given = answers(3, model_class="MultiVectorEncoder", rows=5)

    found = compared(given)

    means = given.adapted.reshape(3, 5, -1).mean(axis=1)
    assert found.pairs[0].adapted == pytest.approx(cosine(means[0], means[1]), abs=1e-6)


def test_a_cross_encoder_has_scores() -> None:
    given = answers(4, 1, model_class="CrossEncoder")

    found = compared(given)

    assert (found.quantity, found.agreement) == ("score", ())
    assert [pair.adapted for pair in found.pairs] == [float(score) for score in given.adapted[:, 0]]
    assert found.pairs[1].texts == ("text 1",)


def test_neighbours() -> None:
    # On a circle, ever farther apart: the nearest to each text is the one before it. The base has two swapped.
    angles = numpy.cumsum(0.1 + 0.005 * numpy.arange(12))
    adapted = numpy.stack([numpy.cos(angles), numpy.sin(angles)], axis=1).astype(numpy.float32)
    base = adapted.copy()
    base[[0, 11]] = base[[11, 0]]
    given = Answers("SentenceTransformer", tuple("abcdefghijkl"), numpy.arange(12), base, adapted, adapted * 2)

    found = {row.k: row for row in compared(given).agreement}

    assert list(found) == [1, 3, 5, 10]
    assert all(row.merged == 1.0 for row in found.values())
    # 0 and 11 find each other's nearest, and 1 finds 11 in the place of 0.
    assert found[1].base == pytest.approx(1 - 3 / 12)
    assert found[10].base < 1.0


def test_outputs_of_different_shapes_are_not_compared() -> None:
    given = answers()

    assert (
        compare_answers(Answers("x", given.texts, given.of_text, given.base, given.adapted, given.merged[:, :3]))
        is None
    )
