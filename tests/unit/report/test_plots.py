"""The drawings: sound XML in the page's colours, a mark for every number, and nothing that a text could smuggle in."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy
import pytest

from ingraft.report import plots
from ingraft.report.answers import Comparison, compare_answers
from ingraft.report.effects import TensorEffect
from ingraft.verification.answers import Answers

SVG = "{http://www.w3.org/2000/svg}"
EVIL = '"><script>alert(1)</script> & </svg>'


def effects(layers: int = 3, dtype: str = "BF16", lost: float | None = 0.05) -> list[TensorEffect]:
    return [
        TensorEffect(f"encoder.layer.{layer}.{module}.weight", dtype, 100, 90, 5.0, 0.1 * (layer + 1), lost)
        for layer in range(layers)
        for module in ("query", "value")
    ]


def comparison(count: int = 8, texts: str = "text") -> Comparison:
    random = numpy.random.default_rng(0)
    base, effect, error = (random.normal(size=(count, 5)).astype(numpy.float32) for _ in range(3))
    names = tuple(f"{texts} {number}" for number in range(count))
    found = compare_answers(
        Answers("SentenceTransformer", names, numpy.arange(count), base, base + effect, base + effect + 1e-6 * error)
    )
    assert found is not None
    return found


def labels(svg: str) -> list[str]:
    """Of the marks, not of axes and legends."""
    symbols = [node for node in ElementTree.fromstring(svg).iter() if node.get("role") == "graphics-symbol"]
    marks = [node for node in symbols if node.get("aria-roledescription") not in ("axis", "legend", "title")]
    return [node.get("aria-label") or "" for node in marks]


def words(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_heat_map() -> None:
    svg = plots.heat_map([*effects(), TensorEffect("embeddings.weight", "BF16", 10, 10, 2.0, 1.0, 0.1)])

    assert "query, layer 2: 6 % of ‖W‖" in labels(svg)
    assert len(labels(svg)) == 7
    assert {"–", "0", "1", "2", "query", "value", "embeddings", "50"} <= set(words(svg))
    # From the strongest to the weakest: one hue, by opacity.
    opacities = {float(found) for found in re.findall(r'fill-opacity="([\d.]+)"', svg)}
    assert len(opacities) == 4


def test_rounding_of_a_narrow_dtype_stands_beside_float32() -> None:
    svg = plots.rounding(effects(), "bfloat16")

    assert len(labels(svg)) == 12
    assert "encoder.layer.0.query.weight: 5 % of the delta lost in bfloat16, as stored" in labels(svg)
    assert {"bfloat16, as stored", "float32, at most", "10⁻²", "10⁻¹"} <= set(words(svg))


def test_rounding_to_float32_stands_alone() -> None:
    svg = plots.rounding(effects(dtype="F32", lost=3e-7), "float32")

    assert len(labels(svg)) == 6
    assert "float32, at most" not in words(svg)
    assert {"10⁻⁷", "10⁻⁶"} <= set(words(svg))


@pytest.mark.parametrize("lost", [0.0, None])
def test_nothing_lost_or_nothing_known_is_not_drawn(lost) -> None:
    assert plots.rounding(effects(lost=lost), "bfloat16") == ""


def test_scatter_has_a_dot_per_pair_in_both_panels() -> None:
    found = comparison()

    svg = plots.scatter(found)

    assert len(labels(svg)) == 2 * len(found.pairs) == 56
    pair = found.pairs[0]
    assert f"“text 0” · “text 1”: base + adapter {pair.adapted:.4f}, base {pair.base:.4f}" in labels(svg)
    assert {"merged against base + adapter", "base against base + adapter"} <= set(words(svg))


def test_distances_are_counted_in_both_models() -> None:
    svg = plots.distances(comparison())

    counts = [(label.split(":")[0], int(label.split()[1])) for label in labels(svg)]
    assert sum(count for model, count in counts if model == "merged") == 8
    assert sum(count for model, count in counts if model == "base") == 8


def test_distances_that_are_all_zero_are_not_drawn() -> None:
    same = numpy.ones((3, 2), dtype=numpy.float32)
    found = compare_answers(Answers("SentenceTransformer", ("a", "b", "c"), numpy.arange(3), same, same, same))

    assert found is not None
    assert plots.distances(found) == ""


def test_equal_models_are_counted_at_the_left() -> None:
    random = numpy.random.default_rng(0)
    rows = random.normal(size=(4, 3)).astype(numpy.float32)
    found = compare_answers(Answers("SentenceTransformer", tuple("abcd"), numpy.arange(4), rows + 1, rows, rows))

    assert found is not None
    assert sum(int(label.split()[1]) for label in labels(plots.distances(found)) if label.startswith("merged")) == 4


def test_texts_cannot_leave_their_labels() -> None:
    svg = plots.scatter(comparison(texts=EVIL))

    assert any(EVIL in label for label in labels(svg))
    assert "<script" not in svg


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_stop_the_page(value) -> None:
    random = numpy.random.default_rng(0)
    rows = random.normal(size=(6, 3)).astype(numpy.float32)
    broken = rows.copy()
    broken[2] = value
    found = compare_answers(Answers("SentenceTransformer", tuple("abcdef"), numpy.arange(6), rows + 1, rows, broken))

    assert found is not None
    ElementTree.fromstring(plots.scatter(found))
    ElementTree.fromstring(plots.distances(found))


def test_ids_are_unique_among_drawings_and_every_reference_has_one() -> None:
    drawings = [plots.heat_map(effects()), plots.scatter(comparison()), plots.scatter(comparison())]

    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in drawings]
    assert len({name for found in ids for name in found}) == sum(map(len, ids))
    for svg, found in zip(drawings, ids, strict=True):
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(found)


def test_colours_are_the_pages() -> None:
    drawings = plots.heat_map(effects()) + plots.rounding(effects(), "bfloat16") + plots.distances(comparison())

    colours = set(re.findall(r'\b(?:fill|stroke)="([^"]+)"', drawings)) - {"none", "transparent"}
    assert all(re.fullmatch(r"var\(--\w+\)", colour) for colour in colours), colours
