"""The page as text: what it says with all there is, and with less."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shutil
import sys
from pathlib import Path

import numpy
import pytest

from helpers.handmade import write_adapter, write_base
from helpers.merging import cli
from ingraft.errors import UnusableInput
from ingraft.plan import plan_merge
from ingraft.report import check_report, write_report
from ingraft.report.page import render
from ingraft.steps import MergePlan
from ingraft.verification.answers import Answers
from ingraft.verification.report import Check, VerificationReport

PASSED = Check("probes", True, "W′·x of every edited tensor", 0.25, 1.0, "encoder.layer.0")
RECORDED = {
    "tensor": "encoder.layer.0.attention.self.query.weight", "elements": 4, "changed": 4, "base_norm": 1.0,
    "delta_norm": 0.1, "rounding_loss": 0.0,
}  # fmt: skip
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def merge(tmp_path_factory: pytest.TempPathFactory) -> tuple[MergePlan, Path]:
    folder = tmp_path_factory.mktemp("merge")
    base = write_base(folder / "base")
    adapter = write_adapter(folder / "adapter", base)
    assert cli("merge", adapter, folder / "out").code == 0
    return plan_merge(adapter), folder / "out"


def answers(*, texts: str = "text", width: int = 4) -> Answers:
    random = numpy.random.default_rng(0)
    base, adapted = (random.normal(size=(6, width)).astype(numpy.float32) for _ in range(2))
    names = tuple(f"{texts} {number}" for number in range(6))
    return Answers("SentenceTransformer", names, numpy.arange(6), base, adapted, adapted + numpy.float32(1e-6))


def visible(page: str) -> str:
    body = re.sub(r"<(svg|style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_without_answers_it_says_how_to_get_them(merge) -> None:
    plan, output = merge

    page = visible(render(VerificationReport((PASSED,)), plan, merged=output))

    assert "✓ Proven: out is base + adapter" in page
    assert f"ingraft verify {output} --adapter {plan.adapter.name} --report report.html" in page
    assert "Nearest neighbours" not in page
    assert "The change was read from the files of both models" in page


def test_answers_of_different_shapes_are_left_out(merge) -> None:
    plan, output = merge
    broken = dataclasses.replace(answers(), merged=numpy.zeros((3, 4), dtype=numpy.float32))

    assert "Nearest neighbours" not in render(VerificationReport((PASSED,), {}, broken), plan, merged=output)


def test_what_users_wrote_is_text(merge) -> None:
    plan, output = merge
    report = VerificationReport((dataclasses.replace(PASSED, where=EVIL, passed=False),), {}, answers(texts=EVIL))

    page = render(report, plan, merged=output)

    assert page.count("<script") == 1
    assert EVIL in visible(page)


def test_a_file_that_is_not_the_recorded_one_is_named(merge, tmp_path) -> None:
    import shutil

    plan, output = merge
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")

    page = visible(render(VerificationReport((PASSED,)), plan, merged=copy))

    assert page.count("not the file that ingraft.json names") == 1
    assert re.search(r"config\.json [\d.]+ k?B [0-9a-f]{64} not the file that ingraft\.json names", page)


ODD: tuple[object, ...] = (None, [], {}, 3, "x", [3], {"files": 3}, {"figures": 3}, {"figures": {"tensors": 3}})


@pytest.mark.parametrize(
    "change",
    [
        *({key: value} for key in ("base", "adapter", "files", "verification", "created") for value in ODD),
        *(
            {"verification": {"figures": {"tensors": [{**RECORDED, **row}]}}}
            for row in (
                {"tensor": []},
                {"elements": 0},
                {"base_norm": "x"},
                {"delta_norm": 1e308},
                {"rounding_loss": []},
            )
        ),
        {"verification": {"figures": {"tensors": [3, None, {}]}}},
        {"verification": {"figures": {"tensors": [{key: RECORDED[key] for key in list(RECORDED)[:-1]}]}}},
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_left_out(change: dict[str, object], merge, tmp_path) -> None:
    plan, output = merge
    folder = tmp_path / "out"
    shutil.copytree(output, folder)
    manifest = json.loads((folder / "ingraft.json").read_text())
    (folder / "ingraft.json").write_text(json.dumps({**manifest, **change}))

    page = visible(render(VerificationReport((PASSED,)), plan, merged=folder))

    assert "The change was read from the files of both models" in page
    assert "4 edited" in page


@pytest.mark.parametrize("content", ["", "[]", "[" * 5000, "{}"])
def test_a_manifest_that_is_no_json_object(content: str, merge, tmp_path) -> None:
    plan, output = merge
    folder = tmp_path / "out"
    shutil.copytree(output, folder)
    (folder / "ingraft.json").write_text(content)

    assert "4 edited" in visible(render(VerificationReport((PASSED,)), plan, merged=folder))


def test_without_a_manifest_nothing_is_said_of_it(merge, tmp_path) -> None:
    import shutil

    plan, output = merge
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    (copy / "ingraft.json").unlink()

    page = visible(render(VerificationReport((PASSED,)), plan, merged=copy))

    assert "compared with what" not in page
    assert "does not record it for this merge" in page


def test_a_failed_check_is_the_verdict(merge) -> None:
    plan, output = merge
    failed = Check(
        "untouched tensors", False, "bit for bit", 67, 68, "pooler.dense.bias differs from the base at byte 4"
    )

    page = visible(render(VerificationReport((PASSED, failed)), plan, merged=output))

    assert "✗ Not proven: 1 of 2 checks failed for out" in page
    assert "untouched tensors : 67 of 68 (pooler.dense.bias differs from the base at byte 4)" in page


def test_it_is_written_in_one_step(merge, tmp_path) -> None:
    plan, output = merge
    target = tmp_path / "new" / "report.html"

    write_report(target, VerificationReport((PASSED,), {}, answers()), plan, merged=output)

    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    assert target.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_where_it_cannot_be_written(merge, tmp_path) -> None:
    plan, output = merge
    (tmp_path / "file").write_text("")

    with pytest.raises(UnusableInput, match="cannot be written"):
        write_report(tmp_path / "file" / "report.html", VerificationReport((PASSED,)), plan, merged=output)
    with pytest.raises(UnusableInput, match="is a directory"):
        check_report(tmp_path)


def test_what_must_be_installed(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)

    with pytest.raises(UnusableInput, match="altair") as error:
        check_report(tmp_path / "report.html")

    assert "ingraft[report]" in error.value.hint
