"""What the READMEs say about the code is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingraft.cli.app import main

ROOT = Path(__file__).parents[2]


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
