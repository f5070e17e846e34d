"""Pages in a headless Chromium, as a reader sees them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
    "--virtual-time-budget=3000",
)  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """dom  the page after its scripts have run; `console` what it wrote to the console, errors and refusals too"""

    dom: str
    console: tuple[str, ...]


def visit(page: Path, *flags: str, width: int = 1100) -> Visit:
    run = _chromium(page, ("--dump-dom", *flags), width)
    return Visit(run.stdout, tuple(line for line in run.stderr.splitlines() if ":CONSOLE" in line))


def measure(page: Path, script: str, *flags: str, width: int = 1100) -> Any:
    """What the JavaScript expression `script` says of the page: it is run in a copy, after the page's own."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    probe = f"<script>document.body.dataset.found = JSON.stringify({script});</script></body>"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text.replace("</body>", probe), encoding="utf-8")
        found = re.search(r'data-found="([^"]*)"', visit(copy, *flags, width=width).dom)
    assert found, "the script failed"
    return json.loads(html.unescape(found.group(1)))


def screenshot(page: Path, target: Path, *flags: str, width: int = 1100, height: int = 2000) -> Path:
    _chromium(page, (f"--screenshot={target}", *flags), width, height)
    return target


def _chromium(page: Path, flags: Sequence[str], width: int, height: int = 2000) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", *flags]
        return subprocess.run(
            [*command, page.absolute().as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
