"""What the documentation says about the code is what the code says, and the site builds without a warning."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ingraft
from ingraft.cli.verbs import VERBS
from ingraft.methods.table import METHODS

ROOT = Path(__file__).parents[2]
_RAISED = {"UnusableInput", "CheckFailed", "IngraftError"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert (run.returncode, run.stderr.strip()) == (0, "")
    return folder


def test_pages_that_the_code_writes_are_whole(site: Path) -> None:
    commands = (site / "commands.html").read_text("utf-8")
    assert [verb for verb in VERBS if f"<code>ingraft {verb}</code>" not in commands] == []
    assert "--base-precision" in commands  # an option of merge
    assert "--mining.negatives" in commands  # one that comes from a dataclass

    rows = (site / "methods.html").read_text("utf-8").count("<tr>")
    assert rows == len(METHODS) + 1


def test_api_reference_has_every_public_name(site: Path) -> None:
    page = (site / "api.html").read_text("utf-8")
    assert [name for name in ingraft.__all__ if f'id="ingraft.{name}"' not in page] == []


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).with_suffix(".html") for path in docs.rglob("*.md")]
    assert [page for page in pages if not (site / page).is_file()] == []

    navigation = (site / "index.html").read_text("utf-8")
    assert [page for page in pages if f'href="{page.as_posix()}"' not in navigation] == []


def test_troubleshooting_quotes_messages_as_they_are() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    terms = re.findall(r"^(.*)\n:   ", text, re.MULTILINE)
    quoted = [message for term in terms for message in re.findall(r"`(… .*?|…: .*?|[^`]{20,}?)`", term)]
    raised = _messages()

    assert len(quoted) > 50
    assert [message for message in quoted if not any(_quotes(message, whole) for whole in raised)] == []


def _quotes(message: str, whole: str) -> bool:
    return message.removesuffix("…").rstrip() in whole


def _messages() -> set[str]:
    """Every message that src/ raises, … in the place of what is filled in."""
    messages = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _RAISED and node.args:
                messages.add(_text(node.args[0]))
    return messages


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return re.sub("…+", "…", "".join(_text(part) for part in node.values))
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def test_quick_start_names_every_extra() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    [table] = re.findall(r"^\[project\.optional-dependencies\]\n(.*?)^\[", project, re.DOTALL | re.MULTILINE)
    extras = set(re.findall(r"^(\w+) = ", table, re.MULTILINE)) - {
        "demo",
        "docs",
        "dev",
    }  # of no use to an installation
    page = (ROOT / "docs" / "index.md").read_text("utf-8")

    assert [extra for extra in sorted(extras) if f"`{extra}`" not in page and f"ingraft[{extra}]" not in page] == []
