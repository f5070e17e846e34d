"""JSON that says where it is broken, paths that stay in their directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.files import MAX_JSON_BYTES, human_bytes, inside, read_json, read_json_object, to_json


def test_json_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(to_json({"Größe": [1, None, "x"]}), encoding="utf-8")

    assert read_json_object(path) == {"Größe": [1, None, "x"]}
    assert path.read_bytes().endswith(b"]\n}\n")
    assert "Größe" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "not JSON: .* in line 2"),
        (b"", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100 + b"[]" + b"}" * 100, "nested too deeply"),  # what Python itself still reads
        (b'{"a": ' + b"9" * 5000 + b"}", r"x\.json"),
    ],
    ids=["syntax", "empty", "latin-1", "deep", "deeper than anything is", "huge number"],
)
def test_broken_json_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)

    with pytest.raises(UnusableInput, match=message) as refused:
        read_json(path)

    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message


def test_json_as_deep_as_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100 + "1" + "]" * 100)

    assert str(read_json(tmp_path / "x.json")).count("[") == 100


def test_missing_json_and_directory(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UnusableInput, match="cannot be read"):
        read_json(tmp_path)


def test_json_too_large(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)

    with pytest.raises(UnusableInput, match="too many for a JSON file"):
        read_json(path)


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "true"])
def test_object_is_asked_for(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(UnusableInput, match="expected an object"):
        read_json_object(path)


@pytest.mark.parametrize("name", ["model.safetensors", "a/b.json", "", ".", "./a", "..a", "a..b/c", "0_Transformer/"])
def test_inside(name: str, tmp_path: Path) -> None:
    assert inside(tmp_path, name, named_by=tmp_path / "x.json") == tmp_path / name


@pytest.mark.parametrize(
    "name",
    ["..", "../a", "a/../../b", "a/..", "/etc/passwd", "//host/x", "..\\a", "a\\..\\..\\b", "C:", "C:a", "c:/a"],
)
def test_outside(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"x\.json names .* outside"):
        inside(tmp_path, name, named_by=tmp_path / "x.json")


@pytest.mark.parametrize(
    ("name", "why"),
    [("x" * 300, "too long"), ("a/" * 5000, "too long"), ("a\0b", "no file can be called"), ("\ud800", "no file can")],
    ids=["long", "deep", "nul", "half a character"],
)
def test_what_no_file_can_be_called(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=rf"x\.json names .* {why}") as refused:
        inside(tmp_path, name, named_by=tmp_path / "x.json")

    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (90_900_000, "90.9 MB"), (999_600, "1 MB"), (1.5e12, "1.5 TB")],
)
def test_human_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_json_of_what_is_no_text() -> None:
    """A file name in another encoding than the system's, as Python spells it."""
    value = {"name": "a\udce4", "emoji": "😀", "ä": 1}

    text = to_json(value)

    assert json.loads(text.encode()) == value
    assert "😀" in text
    assert "ä" in text
