"""The errors of ingraft: their words and their exit codes."""

from __future__ import annotations

import pytest

from ingraft.errors import CheckFailed, IngraftError, UnusableInput, first_line, nearest


@pytest.mark.parametrize(("kind", "code"), [(IngraftError, 2), (UnusableInput, 2), (CheckFailed, 1)])
def test_exit_codes(kind: type[IngraftError], code: int) -> None:
    error = kind("x is wrong.", hint="Do y.")

    assert error.exit_code == code
    assert isinstance(error, IngraftError)
    assert (error.message, error.hint, str(error)) == ("x is wrong.", "Do y.", "x is wrong. Do y.")


def test_no_hint_leaves_no_space() -> None:
    assert str(UnusableInput("x is wrong.")) == "x is wrong."


def test_names_of_anybodys_files_move_no_cursor() -> None:
    error = UnusableInput("no tensor \x1b[2Ja\nb\u202e 层", hint="Look at \x07it.\nThen go on.")

    assert error.message == str(error).splitlines()[0].split(" Look")[0] == r"no tensor \x1b[2Ja\nb\u202e 层"
    assert error.hint == "Look at \\x07it.\nThen go on."


def test_nearest() -> None:
    assert nearest("encoder.layer.6", ["encoder.layer.5", "pooler"]) == " (nearest: encoder.layer.5)"
    assert nearest("encoder.layer.6", ["xyz"]) == ""
    assert nearest("encoder.layer.6", []) == ""


@pytest.mark.parametrize("text", ["no such\nadvice", "\nno such \n"])
def test_first_line_of_other_peoples_errors(text: str) -> None:
    assert first_line(ValueError(text)).rstrip() == "no such"


def test_an_error_without_words_is_called_by_its_type() -> None:
    assert first_line(MemoryError()) == "MemoryError"
