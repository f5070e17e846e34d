"""What a rule is: something that a server needs or ignores, where its source says so, and how to tell from files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Facts = TypeVar("Facts")
# refuses  the server does not start with the model, or not with this part of it
# differs  it starts and computes something else than Sentence Transformers does
# note     it computes the same if the person who starts or asks it does what `fix` says
Effect = Literal["refuses", "differs", "note"]

# Names in the files: older ones are put beside the newer ones for servers, in their place for older releases.
PORTABLE = "--fix adds the older names."
LEGACY = "--fix, or merge --layout legacy, puts older names in the place of the newer ones."


@dataclass(frozen=True)
class Rule(Generic[Facts]):
    """One row of a server's table.

    found   what is so in a directory, in words; None where the rule is kept
    source  file and function of the server's source that the rule was taken from
    fix     what to do about it; PORTABLE or LEGACY where the layout of that name does it
    before  the first release of the server for which the rule no longer holds
    """

    effect: Effect
    found: Callable[[Facts], str | None]
    source: str
    fix: str = ""
    before: tuple[int, ...] | None = None

    def holds_for(self, version: tuple[int, ...] | None) -> bool:
        """Is the rule one of this release's (None: of the newest that was looked at)?"""
        return self.before is None or (version is not None and version < self.before)


@dataclass(frozen=True)
class Finding:
    """A rule that is broken in a directory."""

    effect: Effect
    reason: str
    source: str
    fix: str


def findings(
    rules: tuple[Rule[Facts], ...], facts: Facts, version: tuple[int, ...] | None = None
) -> tuple[Finding, ...]:
    """Every broken rule, the worst first."""
    order: list[Effect] = ["refuses", "differs", "note"]
    found = [
        Finding(rule.effect, reason, rule.source, rule.fix)
        for rule in rules
        if rule.holds_for(version) and (reason := rule.found(facts)) is not None
    ]
    return tuple(sorted(found, key=lambda finding: order.index(finding.effect)))
