"""`ingraft train --report`: the page of a run, as text and in a headless Chromium."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest

from helpers.browser import CHROMIUM, measure, visit
from helpers.merging import cli
from ingraft import pipeline
from ingraft.errors import CheckFailed
from unit.training.tiny_model import save_tiny_model, translations

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
EVIL = "<script>alert(1)</script>"


def text_of(page: Path) -> str:
    body = re.sub(r"<(svg|style|script)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with a row that cannot be used, near-duplicates, checkpoints and a merge."""
    folder = tmp_path_factory.mktemp("training")
    save_tiny_model(folder / "tiny")
    lines = [f"{first},{second}\n" for first, second in translations(300)]
    (folder / "pairs.csv").write_text(f"query,document\n{''.join(lines)}{EVIL}\n")
    run = cli(*arguments(folder), "--checkpoints.best", "--checkpoints.every", "4", "--merge", folder / "merged")
    assert (run.code, run.err) == (0, ""), run.out + run.err
    assert run.out.splitlines()[-1] == f"report    {folder / 'report.html'}"
    return folder


def arguments(folder: Path, name: str = "adapter", page: str = "report.html") -> list[str]:
    settings = {
        "--model": folder / "tiny", "--data": folder / "pairs.csv", "--output": folder / name,
        "--report": folder / page, "--learning-rate": 0.01, "--batch-size": 16, "--lora.dropout": 0,
    }  # fmt: skip
    return ["train", "--skip-bad-rows", *(str(part) for setting in settings.items() for part in setting)]


def test_it_says_what_was_trained_and_what_came_of_it(folder: Path) -> None:
    text = text_of(folder / "report.html")
    record = json.loads((folder / "adapter" / "ingraft_training.json").read_text())

    for name in ("before", "after", "general_before", "general_after"):
        for value in record[name].values():
            assert f"{value:.4f}".replace("-", "−") in text
    assert f"▲ nDCG@10 {record['before']['nDCG@10']:.4f} → {record['after']['nDCG@10']:.4f}" in text
    assert "proven equal to base + adapter" in text
    assert f"step {record['best']['step']}" in text
    for known in (*record["files"].values(), record["base"]["fingerprint"], "LoRA", "query → anchor"):
        assert known in text
    assert "1 of 301 rows left out: line 302" in text
    assert record["data"][0]["near_duplicates"]
    assert all(found in text for found in record["data"][0]["near_duplicates"])
    assert "learning_rate: 0.01" in text  # all settings
    assert "ingraft train" in text


def test_the_course_is_recorded_step_by_step(folder: Path) -> None:
    record = json.loads((folder / "adapter" / "ingraft_training.json").read_text())
    course = record["course"]
    assert course["steps"] == list(range(1, record["steps"] + 1))
    assert len(course["losses"]) == len(course["learning_rates"]) == record["steps"]
    assert max(course["learning_rates"]) == pytest.approx(0.01)
    best = record["best"]
    assert course["measured"][str(best["step"])] == {
        "nDCG@10": pytest.approx(best["value"], abs=1e-4),
        "accuracy@1": pytest.approx(course["measured"][str(best["step"])]["accuracy@1"]),
    }
    assert set(course["measured"]) >= {"4", "8", "12", "16"}


def test_one_file_that_asks_for_nothing(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.findall(r"""(?:src|href|srcset|action)\s*=\s*["'](?!data:|#)""", text)
    assert EVIL not in text


@needs_chromium
@pytest.mark.parametrize("width", [1100, 400])
def test_it_renders(folder: Path, width: int) -> None:
    page = folder / "report.html"
    seen = visit(page, width=width)
    assert seen.console == ()
    script = """[...document.querySelectorAll("figure svg")].map((svg) => {
      const box = svg.getBoundingClientRect();
      const marks = svg.querySelectorAll("[aria-roledescription=circle]").length;
      return [svg.parentElement.id, box.width, box.height, marks];
    })"""
    record = json.loads((folder / "adapter" / "ingraft_training.json").read_text())
    drawn = {name: sizes for name, *sizes in measure(page, script, width=width)}
    assert list(drawn) == ["losses", "checkpoints", "learning-rates"]
    assert all(300 < wide < 800 and 50 < high < 400 for wide, high, _ in drawn.values())
    assert drawn["losses"][2] == drawn["learning-rates"][2] == record["steps"]
    assert drawn["checkpoints"][2] == len(record["course"]["measured"])
    wide, window = measure(page, "[document.scrollingElement.scrollWidth, innerWidth]", width=width)
    assert wide <= window


@needs_chromium
def test_dark_mode_reaches_the_plots(folder: Path) -> None:
    script = """getComputedStyle(document.querySelector("figure svg .role-axis-label text")).fill"""
    page = folder / "report.html"
    assert measure(page, script) == "rgb(27, 31, 36)"
    assert measure(page, script, "--blink-settings=preferredColorScheme=0") == "rgb(230, 233, 237)"


def test_without_held_out_rows_and_checkpoints_and_merge(folder: Path) -> None:
    flags = ["--holdout", "0", "--general", "none", "--max-pairs", "64"]
    assert cli(*arguments(folder, "plain", "plain.html"), *flags).code == 0
    text = text_of(folder / "plain.html")
    assert "No rows were held out" in text
    assert "Before and after" not in text
    assert "ingraft merge plain OUTPUT" in text


def test_a_merge_that_fails_is_on_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CheckFailed("3 of 24 probes failed.")

    monkeypatch.setattr(pipeline, "run_plan", fail)
    run = cli(*arguments(folder, "unmerged", "unmerged.html"), "--max-pairs", "64", "--merge", folder / "never")
    assert run.code == 1
    text = text_of(folder / "unmerged.html")
    assert f"✗ Not merged into {folder / 'never'}: 3 of 24 probes failed." in text
    assert (folder / "unmerged").is_dir()


def test_what_cannot_be_written_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    run = cli(*arguments(folder, "none"), "--report", tmp_path)
    assert run.code == 2
    assert f"{tmp_path} is a directory" in run.err
    assert not (folder / "none").exists()
    run = cli(*arguments(folder, "none", "new/report.html"), "--merge", folder / "new")
    assert run.code == 2
    assert f"report.html would lie in {folder / 'new'}" in run.err
    assert not (folder / "none").exists()
