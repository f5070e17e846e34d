"""How far a long job is: what it tells, and to whom."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told when a stage begins, with its bytes in all, and about bytes done in it.

    Those of a merge are `base` (made from a quantised one), `merge` (written, and read for the proof) and `embeddings`,
    which are not counted; `weights` is the proof of `verify`.
    """

    def begin(self, stage: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def begin(self, stage: str, total: int) -> None:
        pass

    def advance(self, count: int) -> None:
        pass

    def end(self) -> None:
        pass
