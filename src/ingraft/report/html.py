"""What the pages have in common: one HTML file with everything in it, that asks nothing from any server."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ingraft.checkpoint import dtype_name
from ingraft.errors import UnusableInput
from ingraft.manifest import versions
from ingraft.publish import check_file
from ingraft.report import words

_LIBRARIES = {"jinja2": "jinja2", "altair": "altair", "vl_convert": "vl-convert-python"}


def check_report(path: Path, *, merged: Path | None = None, inputs: Iterable[str | Path] = ()) -> None:
    """Raise UnusableInput when a report could not be written to `path`: to be asked before the long work, not after.

    merged  the model that it is about, in which it must not lie
    inputs  files, directories and Hub ids that are read; a file of theirs is not replaced
    """
    missing = [name for module, name in _LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise UnusableInput(
            f"A report needs {', '.join(missing)}.", hint="Install it with: pip install 'ingraft[report]'"
        )
    check_file(path, inputs=inputs, model=merged)
    if path.exists() and not path.is_file():
        raise UnusableInput(f"{path} is a device or a pipe; expected a file.", hint="Name one, such as report.html.")


def fill(template: str, *, command: str = "", **values: Any) -> str:
    """The page that `template`, which extends base.html, makes of `values`."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    script = _resource("page.js")
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": words.number, "percent": words.percent, "shortened": words.shortened}
    environment.filters |= {"fixed": words.fixed, "limit": words.limit}
    return environment.get_template(template).render(
        versions=versions(),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        style=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        times=words.times,
        against=words.against,
        dtype=dtype_name,
        **values,
    )


def write_page(path: Path, page: str) -> None:
    """Write `page` to `path`, whole or not at all. UnusableInput when that cannot be."""
    try:
        target = Path(os.path.realpath(path))  # a link stays one
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        unfinished.write_text(page, encoding="utf-8", errors="replace")
        unfinished.replace(target)
    except OSError as error:
        raise UnusableInput(f"{path} cannot be written: {error.strerror}.") from None


def _resource(name: str) -> str:
    return files("ingraft.report").joinpath(name).read_text(encoding="utf-8")
