"""Checks and reports."""

from __future__ import annotations

import json

import pytest

from ingraft.verification.report import Check, VerificationReport

GOOD = Check("probes", True, "W′·x", 0.3, 1.0, "a")
BAD = Check("structure", False, "as planned", where="b")


def test_report() -> None:
    report = VerificationReport((GOOD, BAD), {"kept_of_delta": 0.9})

    assert not report.passed
    assert report.failed == (BAD,)
    assert report.check("probes") is GOOD
    with pytest.raises(KeyError):
        report.check("none")
    written = json.loads(json.dumps(report.to_dict()))
    assert written["passed"] is False
    assert written["checks"][0] == {
        "name": "probes", "passed": True, "meaning": "W′·x", "value": 0.3, "limit": 1.0, "where": "a",
    }  # fmt: skip
    assert written["figures"] == {"kept_of_delta": 0.9}
    assert VerificationReport((GOOD,)).passed


def test_json_has_no_infinity() -> None:
    broken = Check("probes", False, "W′·x", float("inf"), 1.0)
    report = VerificationReport((broken,), {"embeddings": {"by_text": (0.5, float("nan")), "texts": 2}})

    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    assert written["checks"][0]["value"] is None
    assert written["figures"]["embeddings"] == {"by_text": [0.5, None], "texts": 2}
