"""Whom to tell what a run finds out, and how long each of its stages took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingraft.training.facts import Event, Observer


def unobserved(event: Event) -> None:
    """The observer of a run that nobody listens to."""


@dataclass(frozen=True)
class Journal:
    tell: Observer
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 2)
