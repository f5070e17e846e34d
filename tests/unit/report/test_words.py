"""Numbers as a person reads them: no false digits, and nothing rounded to perfection."""

from __future__ import annotations

import math

import pytest

from ingraft.report.words import against, limit, number, percent, short_name, shortened, times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (72, "72"),
        (1_234_567, "1,234,567"),
        (0.0, "0"),
        (0.2181, "0.218"),
        (1.0, "1"),
        (231.2, "231"),
        (12_345.6, "12,346"),
        (8.25e-7, "8.25 × 10⁻⁷"),
        (-9.999e-4, "−1 × 10⁻³"),
        (3e12, "3 × 10¹²"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
    ],
)
def test_numbers(value, text) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (0.0762, "7.62 %"),
        (0.5, "50 %"),
        (0.9994, "99.9 %"),
        (0.99994, "99.994 %"),
        (0.9999998, "99.99998 %"),
        (1 - 1e-12, "99.9999999 %"),
        (1.0, "100 %"),
        (1e-7, "< 0.001 %"),
    ],
)
def test_shares_are_never_rounded_to_all_or_nothing(share, text) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(("ratio", "text"), [(602_431.0, "600,000"), (61.2, "61"), (3.04, "3"), (math.inf, "∞")])
def test_ratios_have_two_digits(ratio, text) -> None:
    assert times(ratio) == text


def test_limits_of_counts_and_of_measures() -> None:
    assert [limit(value) for value in (None, 72, 0.01)] == ["–", "of 72", "≤ 0.01"]


def test_a_value_against_its_limit() -> None:
    assert against(67, 68) == "67 of 68"
    assert against(231.2, 1.0) == "231 where 1 is allowed"
    assert against(0.1, None) == "0.1"


def test_texts_and_names_are_cut() -> None:
    assert shortened("one\n two  three", 20) == "one two three"
    assert shortened("a" * 30, 10) == "a" * 9 + "…"
    assert short_name("/models/all-MiniLM-L6-v2") == "all-MiniLM-L6-v2"
    assert short_name("sentence-transformers/all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
