"""Everything that ingraft raises on purpose.

IngraftError          one line that says what, where and what was expected; `hint` says what to do next
├── UnusableInput     the input or the command line cannot be used       (exit code 2, nothing was written)
└── CheckFailed       everything ran and a check of the result failed    (exit code 1, nothing was published)
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class IngraftError(Exception):
    """A message in one line for a person, and `hint`: the next thing to try."""

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        self.message = printable(message)
        self.hint = "\n".join(map(printable, hint.split("\n")))
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UnusableInput(IngraftError):
    """The input cannot be used as it is."""

    exit_code = 2


class CheckFailed(IngraftError):
    """A check of the result failed."""

    exit_code = 1


def printable(text: str) -> str:
    """`text` in one line that moves no cursor and sets no colour: names in it may come from a file of anybody's."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """` (nearest: x)` for an error message, or nothing where no candidate is near."""
    found = get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (nearest: {found[0]})" if found else ""


def one_of(what: str, value: object, allowed: Iterable[str]) -> None:
    """Raise UnusableInput where `value` of the setting `what` is none of the `allowed`, as a type cannot."""
    names = tuple(allowed)
    if value not in names:
        near = nearest(str(value), names)
        raise UnusableInput(f"{what} is {value!r}{near}; expected one of {', '.join(names)}.")


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line; its type where it says nothing."""
    return _lines(error)[0]


def last_line(error: BaseException) -> str:
    """The same for libraries that print the way to their error first."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return str(error).strip().splitlines() or [type(error).__name__]
