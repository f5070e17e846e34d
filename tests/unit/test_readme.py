"""What the READMEs say about the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingraft.cli.app import main

ROOT = Path(__file__).parents[2]


def commands_and_captures(name: str) -> list[str]:
    """What a reader types or sees: fenced blocks without Python's comments, indented lines, verbs, measured rows."""
    text = (ROOT / name).read_text("utf-8")
    blocks = re.findall(r"^```\w*\n.*?^```$", text, re.DOTALL | re.MULTILINE)
    fenced = [re.sub(r" *# .*", "", block) for block in blocks]
    indented = re.findall(r"^    (?:pip|ingraft|make) .*$", text, re.MULTILINE)
    verbs = re.findall(r"^\| (`ingraft .*?`) \|", text, re.MULTILINE)
    measured = re.findall(r"^\| .*\(warm\) .*$", text, re.MULTILINE)
    return [*fenced, *indented, *verbs, *measured]


def test_both_languages_have_the_same_commands_and_captures() -> None:
    english, chinese = (commands_and_captures(name) for name in ("README.md", "README.zh-CN.md"))

    assert len(english) > 25
    assert english == chinese


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_methods_table_is_current(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(
        r"^<!-- methods: .*? -->\n(.*?)^<!-- /methods -->$",
        (ROOT / name).read_text("utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert len(blocks) == 1, f"{name} needs one pair of methods markers"

    assert main(["methods", "--format", "markdown"]) == 0

    assert blocks[0].strip() == capsys.readouterr().out.strip(), "run: make readme"
