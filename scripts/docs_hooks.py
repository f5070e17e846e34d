"""MkDocs hooks: pages that the code and the files of the root make, and a look at what was built.

What stands on the site and not in docs/ cannot be out of date: the program prints the methods table and the command
reference while the site is built.
"""

from __future__ import annotations

import os
import posixpath
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent

# File of the repository → its name on the site
FROM_ROOT = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results.md": "benchmarks.md",
    "benchmarks/merge.svg": "assets/benchmark.svg",
    "README.md": "index.md",
    "docs/decisions": "decisions/0001-plan-execute-verify.md",
}
_COPIED = ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/results.md", "benchmarks/merge.svg")
_REPOSITORY_PATH = {name: source for source, name in FROM_ROOT.items() if source in _COPIED}

# Marker in a page → the command line (after `python -m`) whose output takes its place
PRINTED = {
    "<!-- ingraft methods -->": ("ingraft", "methods", "--format", "markdown"),
    "<!-- ingraft --help -->": ("typer", "ingraft.cli.app", "utils", "docs", "--name", "ingraft"),
}

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preconnect|icon))[^>]*\bhref=["']?(?:https?:)?//"""
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that nothing names where `nav` has a pattern for them."""
    docs = Path(config.docs_dir)
    unnamed = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    named = set(_names(config.nav))
    config.nav = _expand(config.nav, [page for page in unnamed if page not in named])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies beside docs/."""
    for source in _COPIED:
        files.append(File.generated(config, FROM_ROOT[source], abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the markers, and turn links into the repository into links of the site."""
    for marker, command in PRINTED.items():
        if marker in markdown:
            markdown = markdown.replace(marker, printed(command))
    return relink(markdown, page.file.src_uri)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that a browser could not show offline."""
    found = _FETCHED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} makes a browser fetch something: {found.group()}…")
    return output


def printed(command: tuple[str, ...]) -> str:
    """What ingraft prints; of its command reference the verbs alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"}
    run = subprocess.run(
        [sys.executable, "-m", *command], check=True, capture_output=True, encoding="utf-8", env=environment
    )
    return run.stdout[run.stdout.index("## ") :] if command[0] == "typer" else run.stdout


def relink(markdown: str, page: str) -> str:
    """Links of `page` into the repository as links of the site; where the site lacks the file, its label alone."""
    source = _REPOSITORY_PATH.get(page, f"docs/{page}")

    def replace(link: re.Match[str]) -> str:
        image, label, target, anchor = link.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in FROM_ROOT:
            name = FROM_ROOT[path]
        elif path.startswith("docs/"):
            name = path.removeprefix("docs/")
        else:
            return label
        return f"{image}[{label}]({posixpath.relpath(name, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(replace, markdown)


def _names(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    children = nav.values() if isinstance(nav, dict) else nav or []
    return [name for child in children for name in _names(child)]


def _expand(nav: Any, unnamed: list[str]) -> Any:
    if isinstance(nav, dict):
        return {title: _expand(child, unnamed) for title, child in nav.items()}
    if not isinstance(nav, list):
        return nav
    expanded: list[Any] = []
    for child in nav:
        if isinstance(child, str) and "*" in child:
            depth = child.count("/")
            expanded += [page for page in unnamed if page.count("/") == depth and fnmatch(page, child)]
        else:
            expanded.append(_expand(child, unnamed))
    return expanded
