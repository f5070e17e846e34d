"""`--report` of real merges, in a headless Chromium: what a reader sees, with no console error and no request."""

from __future__ import annotations

import functools
import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from helpers.browser import CHROMIUM, measure, screenshot, visit
from helpers.files import snapshot
from helpers.merging import cli, merged_once
from helpers.models import copy_of, lora_config, new_folder, sentence_adapter, sentence_base

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
FIGURES = ("heat-map", "rounding", "scatter", "distances")
TABLES = ("hashes", "checks", "neighbours", "worst-texts", "moved-pairs", "tensors")
DARK = "--blink-settings=preferredColorScheme=0"
SEEN = """[...document.querySelectorAll("figure svg")].map((svg) => {
  const box = svg.getBoundingClientRect();
  return [svg.parentElement.id, box.width, box.height, svg.querySelectorAll("[role=graphics-symbol]").length];
})"""
COLOURS = """(() => {
  const style = (element, name) => getComputedStyle(element)[name];
  const label = document.querySelector("figure svg .role-axis-label text");
  return [style(document.body, "backgroundColor"), style(document.body, "color"), style(label, "fill")];
})()"""


@functools.cache
def adapter() -> Path:
    return sentence_adapter(sentence_base("bert", "bfloat16"), lora_config("bert"))


@functools.cache
def verified() -> tuple[Path, str]:
    """The page of a verification that passes, and what was printed."""
    page = new_folder("report") / "reports" / "report.html"
    run = cli("verify", merged_once(adapter()), "--adapter", adapter(), "--report", page)
    assert (run.code, run.err) == (0, ""), run.out + run.err
    return page, run.out


@functools.cache
def failing() -> Path:
    """The page of a merge of which one tensor was exchanged for its double."""
    output = copy_of(merged_once(adapter()))
    tensors = load_file(output / "model.safetensors")
    name = "encoder.layer.1.attention.self.value.weight"
    tensors[name] = tensors[name] * 2
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    page = new_folder("report") / "report.html"
    assert cli("verify", output, "--adapter", adapter(), "--report", page).code == 1
    return page


def text_of(page: Path) -> str:
    """What is written on it, without the drawings."""
    body = re.sub(r"<(svg|style|script)\b.*?</\1>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def test_one_file_that_asks_for_nothing() -> None:
    page, out = verified()
    text = page.read_text(encoding="utf-8")

    assert f"report    {page}" in out.splitlines()
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert page.stat().st_size < 5_000_000
    addresses = {found for found in re.findall(r"https?://[^\s\"'<>)]+", text) if "example.org" not in found}
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # and one in a text of ours
    assert not re.findall(r"""(?:src|href|srcset|action)\s*=\s*["'](?!data:|#)""", text)
    assert not re.findall(r"@import|url\((?!#|['\"]?data:)", text)
    assert "default-src 'none'" in text


def test_it_says_what_was_merged_and_how_it_was_checked() -> None:
    page, _ = verified()
    text = text_of(page)
    run = cli("verify", merged_once(adapter()), "--adapter", adapter(), "--format", "json")
    report = json.loads(run.out)

    assert "✓ Proven:" in text
    assert all(check["meaning"] in text.replace("&#39;", "'") for check in report["checks"])
    recorded = json.loads((merged_once(adapter()) / "ingraft.json").read_text())
    hashes = [*recorded["base"]["files"].values(), *recorded["adapter"]["files"].values(), *recorded["files"].values()]
    assert len(hashes) > 5
    assert all(sha256 in text for sha256 in hashes)
    assert "not the file that ingraft.json names" not in text
    assert "float32 would keep 99.9" in text


@needs_chromium
def test_the_console_is_heard(tmp_path) -> None:
    """A page with an error and a forbidden request is found out: the next test can fail."""
    page = tmp_path / "page.html"
    page.write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'\">"
        "<img src='https://example.org/x.png'><script>gone()</script>"
    )

    console = "\n".join(visit(page).console)

    assert "gone is not defined" in console
    assert "https://example.org/x.png" in console


@needs_chromium
@pytest.mark.parametrize("width", [1100, 400])
def test_it_renders_without_console_errors(width) -> None:
    page, _ = verified()

    seen = visit(page, width=width)

    assert seen.console == ()
    assert '<h1 id="verdict"' in seen.dom
    for table in TABLES:
        assert f'<table id="{table}">' in seen.dom


@needs_chromium
def test_the_plots_are_there() -> None:
    page, _ = verified()

    drawn = {name: sizes for name, *sizes in measure(page, SEEN)}

    assert tuple(drawn) == FIGURES
    for width, height, marks in drawn.values():
        assert 250 < width < 1000
        assert 90 < height < 600
        assert marks >= 4
    assert drawn["scatter"][2] > 900  # 496 pairs in each of two panels


@needs_chromium
@pytest.mark.parametrize("width", [1100, 400])
def test_nothing_is_wider_than_the_window(width) -> None:
    page, _ = verified()

    # Chromium's window is no narrower than 500.
    wide, window = measure(page, "[document.scrollingElement.scrollWidth, innerWidth]", width=width)

    assert wide <= window


@needs_chromium
def test_dark_mode_reaches_the_plots() -> None:
    page, _ = verified()

    light, dark = measure(page, COLOURS), measure(page, COLOURS, DARK)

    assert light == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(27, 31, 36)"]
    assert dark == ["rgb(21, 24, 28)", "rgb(230, 233, 237)", "rgb(230, 233, 237)"]


@needs_chromium
def test_the_label_of_a_mark_is_shown_under_the_pointer() -> None:
    page, _ = verified()
    script = """(() => {
      const mark = document.querySelector("#scatter [aria-roledescription=circle]");
      mark.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 50, clientY: 60}));
      const shown = [document.getElementById("tip").textContent, document.getElementById("tip").hidden];
      document.body.dispatchEvent(new PointerEvent("pointermove", {bubbles: true}));
      return [...shown, document.getElementById("tip").hidden];
    })()"""

    text, hidden, hidden_after = measure(page, script)

    assert re.search(r"“.+” · “.+”: base \+ adapter -?\d\.\d{4}, merged", text)
    assert (hidden, hidden_after) == (False, True)


@needs_chromium
def test_a_picture_of_it_is_not_empty(tmp_path) -> None:
    page, _ = verified()
    blank = tmp_path / "blank.html"
    blank.write_text("<p></p>")

    picture = screenshot(page, tmp_path / "page.png")

    assert picture.stat().st_size > 20 * screenshot(blank, tmp_path / "blank.png").stat().st_size


@needs_chromium
def test_a_failure_stands_on_top() -> None:
    page = failing()

    text = text_of(page)
    assert text.index("✗ Not proven:") < text.index("What was merged into what")
    top = text[: text.index("What was merged into what")]
    assert all(name in top for name in ("probes", "embeddings"))
    assert "encoder.layer.1.attention.self.value" in top
    assert "not the file that ingraft.json names" in text
    assert visit(page).console == ()
    assert measure(page, 'document.querySelectorAll("#checks tr.failed").length') >= 2


def test_a_model_that_cannot_be_run_has_a_page_too(tmp_path) -> None:
    """A tensor is gone: the models' answers cannot be compared."""
    output = copy_of(merged_once(adapter()))
    tensors = load_file(output / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.key.weight"]
    save_file(tensors, output / "model.safetensors", metadata={"format": "pt"})
    page = tmp_path / "report.html"

    assert cli("verify", output, "--adapter", adapter(), "--report", page).code == 1

    text = text_of(page)
    assert "✗ Not proven:" in text
    assert "encoder.layer.0.attention.self.key.weight in model.safetensors is missing" in text
    assert "Not compared for this page" in text
    assert "<svg" in page.read_text(encoding="utf-8")  # what the other tensors changed


def test_merge_writes_it_too(tmp_path) -> None:
    page = tmp_path / "report.html"

    run = cli("merge", adapter(), tmp_path / "out", "--report", page)

    assert (run.code, run.err) == (0, ""), run.err
    assert run.out.splitlines()[-1] == f"report    {page}"
    text = text_of(page)
    assert "✓ Proven:" in text
    assert "measured while the tensors were written" in text
    assert "Nearest neighbours" in text
    proof = json.loads((tmp_path / "out" / "ingraft.json").read_text())["verification"]
    assert {"probes", "embeddings"} <= {check["name"] for check in proof["checks"]}


def test_what_cannot_be_reported_is_refused_before_the_work(tmp_path) -> None:
    run = cli("merge", adapter(), tmp_path / "out", "--no-verify", "--report", tmp_path / "report.html")
    assert run.code == 2
    assert "--no-verify" in run.err

    run = cli("merge", adapter(), tmp_path / "out", "--report", tmp_path)
    assert run.code == 2
    assert "is a directory" in run.err

    run = cli("merge", adapter(), tmp_path / "out", "--report", tmp_path / "out" / "pages" / "report.html")
    assert run.code == 2
    assert f"report.html would lie in {tmp_path / 'out'}, where ingraft verify allows no file" in run.err

    run = cli("merge", adapter(), tmp_path / "out", "--dry-run", "--report", tmp_path / "report.html")
    assert run.code == 2
    assert "--dry-run" in run.err

    run = cli("merge", adapter(), tmp_path / "out", "--report", "/dev/null")
    assert run.code == 2
    assert "/dev/null is a device or a pipe" in run.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--report", "--save-plan"])
@pytest.mark.parametrize(
    "name", ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "base/config.json"]
)
def test_a_page_or_a_plan_replaces_no_input(option: str, name: str, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter(), tmp_path / "adapter"))
    base = Path(shutil.copytree(sentence_base("bert", "bfloat16"), tmp_path / "base"))
    before = snapshot(tmp_path)

    run = cli("merge", copied, tmp_path / "out", "--base", base, option, tmp_path / name)
    assert (run.code, snapshot(tmp_path)) == (2, before)
    assert f"{name} would replace what is read" in run.err
    if option == "--report":
        model = merged_once(adapter())
        run = cli("verify", model, "--adapter", copied, "--base", base, "--no-embeddings", option, tmp_path / name)
        assert (run.code, snapshot(tmp_path)) == (2, before)


def test_a_plan_does_not_lie_in_what_is_replaced(tmp_path: Path) -> None:
    run = cli("merge", adapter(), tmp_path / "out", "--save-plan", tmp_path / "out" / "plan.json")

    assert run.code == 2
    assert f"plan.json would lie in {tmp_path / 'out'}" in run.err


def test_a_link_to_a_page_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to("page.html")

    assert cli("merge", adapter(), tmp_path / "out", "--report", tmp_path / "link.html").code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert "Proven" in (tmp_path / "page.html").read_text("utf-8")
