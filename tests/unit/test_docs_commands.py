"""Commands, options, captures and links in READMEs and documentation are those of the program and the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from ingraft.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md"))),
)
GROUP: Any = typer.main.get_command(app)
VERBS: Mapping[str, Any] = {name: GROUP.get_command(None, name) for name in GROUP.list_commands(None)}
OPTIONS = {
    name: {spelling for parameter in verb.params for spelling in (*parameter.opts, *parameter.secondary_opts, "--help")}
    for name, verb in VERBS.items()
}
# Other programs' options that stand in the text by themselves, not in a command.
OTHERS = {
    "--enable-lora", "--lora-modules", "--max-lora-rank", "--lora", "--model-id", "--again",
}  # fmt: skip


def page(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Verb and options of every `ingraft VERB …` in code, to the end of the command."""
    code = re.findall(r"^(?:    |\$ )(.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    for line in code:
        for verb, rest in re.findall(r"(?:^|[ ;&|])ingraft ([a-z]+)\b([^#;&|]*)", line.replace("\\|", "/")):
            yield verb, re.findall(r"(?<!\S)--[\w.-]+", rest)


@pytest.mark.parametrize("name", PAGES)
def test_commands_have_the_options_that_are_written(name: str) -> None:
    unknown = [
        f"{verb} {option}"
        for verb, options in commands(page(name))
        for option in options or [""]
        if verb not in VERBS or (option and option not in OPTIONS[verb])
    ]
    assert unknown == []


@pytest.mark.parametrize("name", PAGES)
def test_options_that_are_named_alone_are_some_verbs(name: str) -> None:
    named = {
        option
        for code in re.findall(r"`([^`\n]+)`", page(name))
        if code.startswith("--")
        for option in re.findall(r"(?<!\S)--[\w.-]*\w(?!\S*…)", code)
    }
    assert named - set().union(*OPTIONS.values()) - OTHERS == set()


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_has_a_row_for_every_verb(name: str) -> None:
    rows = re.findall(r"^\| `ingraft ([a-z]+)", page(name), re.MULTILINE)
    assert set(rows) == set(VERBS)


def labels() -> set[str]:
    """What the lines of the program's own output begin with."""
    found = {"proven", "intact"}  # handed over by `verify`
    for path in (ROOT / "src/ingraft/cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                found |= {str(node.args[0].value)} if name == "line" else set()
    return found - {""}


def captures(text: str) -> Iterator[tuple[str, list[str]]]:
    """Verb and labels, in order, of every command in a console block; tables have none."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for verb, printed in re.findall(r"^\$ ingraft (\w+) .*\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            yield verb, re.findall(r"^([a-z]+) {2,}\S", printed, re.MULTILINE)


# What a run prints whatever it is given; `chosen` is a line of its own below the base's.
ALWAYS = {
    "train": ["data", "loss", "base", "before", "adapter", "memory", "train", "after", "general", "saved"],
    "merge": ["base", "adapter", "plan", "merge", "proof", "model"],
    "export": ["model", "graph", "proof", "written"],
    "embed": ["texts", "embed", "vectors"],
}


@pytest.mark.parametrize("name", PAGES)
def test_captures_have_the_lines_that_are_printed(name: str) -> None:
    known = labels()
    for verb, found in captures(page(name)):
        assert [label for label in found if label not in known | {"ok"}] == [], verb
        assert [label for label in ALWAYS.get(verb, ()) if found and label not in found] == [], f"{name}: {verb}"
        assert verb != "train" or "          chosen: " in page(name)


def headings(path: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md", "benchmarks/README.md", "docs/decisions"])
def test_links_into_the_repository_lead_somewhere(name: str) -> None:
    files = sorted((ROOT / name).glob("*.md")) if (ROOT / name).is_dir() else [ROOT / name]
    broken = []
    for file in files:
        for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", file.read_text("utf-8")):
            path, _, anchor = target.partition("#")
            place = (file.parent / path) if path else file
            if not place.exists() or (anchor and anchor not in headings(place)):
                broken.append(f"{file.name}: {target}")
    assert broken == []
