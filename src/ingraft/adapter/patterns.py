"""The regular expressions of an adapter's config, tried beforehand: matching some takes longer than anybody lives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ingraft.adapter.adapter import CONFIG_FILE, Adapter
from ingraft.errors import UnusableInput

SECONDS = 10.0  # for all patterns and names together; those that people write take milliseconds

# Characters that stand for themselves, or for any other one: no choice, so nothing that could be tried again.
_PLAIN = re.compile(r"(?:[\w.^$-]|\\\.)*")


def check_patterns(adapter: Adapter, names: Iterable[str]) -> None:
    """Raises UnusableInput for a pattern that is none, and for one that takes too long to be matched with `names`."""
    rules = sorted({rule for rule in _rules(adapter.config.raw) if not _PLAIN.fullmatch(rule[0])})
    if not rules:
        return
    # Nothing interrupts a match in this process.
    job = json.dumps({"rules": rules, "names": sorted(set(names))}).encode()
    command = [sys.executable, "-I", "-S", "-c", _TRIAL]
    file = adapter.folder / CONFIG_FILE
    try:
        trial = subprocess.run(command, input=job, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as stopped:
        raise UnusableInput(
            f"{file}: matching the pattern {_last(stopped.stdout)!r:.80} with the adapter's modules takes too long.",
            hint="Write the names of the modules in its place.",
        ) from None
    if trial.returncode:
        reason = (trial.stderr.decode().strip().splitlines() or [f"exit code {trial.returncode}"])[-1]
        raise UnusableInput(f"{file}: {_last(trial.stdout)!r:.80} is no regular expression: {reason:.200}.")


def _last(printed: bytes | None) -> str:
    """The pattern that the trial began with last."""
    begun = (printed or b"").splitlines()
    return str(json.loads(begun[-1])) if begun else ""


# A process of its own, which prints each pattern before it tries it, and can be ended while it does.
_TRIAL = """
import json, re, sys
job = json.load(sys.stdin)
for pattern, form, how in job["rules"]:
    print(json.dumps(pattern), flush=True)
    try:
        compiled = re.compile(form.format(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        sys.exit(str(error))
    for name in job["names"]:
        getattr(compiled, how)(name)
"""

Rule = tuple[str, str, str]  # the pattern, the expression that it becomes part of, and the function that matches that


def _rules(config: Mapping[str, Any]) -> Iterator[Rule]:
    """Every pattern of a config, as PEFT and `methods` match it."""
    by_module = [("{}", "search")] if config.get("peft_type") == "OSF" else [
        (r"(.*\.)?({})$", "match"), (r".*\.{}$", "match")
    ]  # fmt: skip
    for key, value in config.items():
        if key == "layers_pattern":
            yield from _each(value, r"(?:^|.*?\.){}\.(\d+)\.", "match")
        elif key.endswith("_pattern") and isinstance(value, dict):
            for form, how in by_module:
                yield from _each(list(value), form, how)
        elif key == "modules_to_save":
            yield from _each(value, r"(^|.*\.){}($|\..*)", "fullmatch")
        elif key in ("target_modules", "exclude_modules", "feedforward_modules") and isinstance(value, str):
            yield value, "{}", "fullmatch"


def _each(patterns: Any, form: str, how: str) -> Iterator[Rule]:
    for pattern in [patterns] if isinstance(patterns, str) else patterns if isinstance(patterns, list) else ():
        if isinstance(pattern, str):
            yield pattern, form, how
