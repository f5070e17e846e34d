"""How an upload is printed: the files with their sizes before it, the commit after it."""

from __future__ import annotations

import os
import sys

from ingraft.cli import show
from ingraft.files import human_bytes
from ingraft.upload.run import PushResult


def quiet_bars(*, human: bool) -> None:
    """Switch the Hub client's own progress bars off, unless a person looks on. To be called before it is imported."""
    if not human or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def result(result: PushResult) -> None:
    """A dry run lists every file; else the commit is what matters."""
    contents = result.contents
    proven = f" · {contents.checked} hashes are those of ingraft.json" if contents.checked else ""
    files = show.plural(len(contents.files), "file")
    show.line("folder", f"{contents.root} · {contents.kind} · {files}, {human_bytes(contents.nbytes)}{proven}")
    if not result.url:
        for name, size in contents.files.items():
            show.line("", f"{human_bytes(size):>9}  {name}")
    for name in contents.left_out:
        show.line("left out", name, style="dim")
    if not contents.has_card:
        show.line("card", "none here: a short README.md goes with it")
    if result.url:
        show.line("arrived", f"{show.plural(result.compared, 'large file')} compared with the Hub's hashes")
        show.line("pushed", result.url, style="bold green")
    else:
        show.line("dry run", f"nothing was sent to {result.repo_id} ({result.revision})")
