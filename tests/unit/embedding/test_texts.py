"""Every row of a file is in one window, whatever the format, and each window can be read by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.embeddings import some_texts, write_texts
from ingraft.embedding.texts import open_texts, read_window, windows
from ingraft.errors import UnusableInput

HARD = ["plain", 'quotes "within", and commas', "two\nlines", "", "größer als ∞ \u2028 x", "tab\there", " spaces "]


def read_all(path: Path, size: int, *, ids: str | None = None) -> tuple[list[int | str], list[str]]:
    file = open_texts(path, ids=ids)
    planned = windows(file, size)
    assert [window.number for window in planned] == list(range(len(planned)))
    read = [read_window(file, window) for window in reversed(planned)][::-1]  # in any order
    assert [len(rows.texts) for rows in read] == [window.rows for window in planned]
    return [i for rows in read for i in rows.ids], [text for rows in read for text in rows.texts]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("size", [2, 3, 100])
def test_all_rows_once_in_order(tmp_path: Path, suffix: str, size: int) -> None:
    texts = HARD + some_texts(20)
    if suffix == ".tsv":
        path = tmp_path / "texts.tsv"
        path.write_text("text\tn\n" + "".join(f"{text}\t1\n" for text in some_texts(20)[1:]))
        assert read_all(path, size) == (list(range(19)), some_texts(20)[1:])
        return
    codes = [f"c{number}" for number in range(len(texts))]
    settings = {"row_group_size": 5} if suffix == ".parquet" else {}
    path = write_texts(tmp_path / f"texts{suffix}", texts, ids=codes, **settings)

    assert read_all(path, size) == (list(range(len(texts))), texts)
    assert read_all(path, size, ids="code") == (codes, texts)


@given(
    texts=st.lists(st.text(st.characters(blacklist_categories=["Cs"])), min_size=1, max_size=12), size=st.integers(2, 5)
)
def test_any_text_survives_csv_and_jsonl(tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int) -> None:
    folder = tmp_path_factory.mktemp("texts")
    plain = [text.replace("\r", " ").replace("\0", " ") for text in texts]
    assert read_all(write_texts(folder / "a.jsonl", texts), size)[1] == texts
    # (A row of one empty field is an empty line to CSV, so there is an id.)
    assert read_all(write_texts(folder / "a.csv", plain, ids=texts and list(range(len(texts)))), size)[1] == plain


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_bytes(b"\xef\xbb\xbftext;n\r\none;1\r\n\r\ntwo;2\r\nthree;3")
    assert read_all(path, 2)[1] == ["one", "two", "three"]

    path = tmp_path / "texts.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n\n{"text": "two"}\n  \n{"text": "three"}')
    assert read_all(path, 2) == ([0, 1, 2], ["one", "two", "three"])


def test_which_column(tmp_path: Path) -> None:
    only = tmp_path / "only.jsonl"
    only.write_text('{"n": 1, "title": "x"}\n')
    assert open_texts(only).column == "title"

    several = tmp_path / "several.jsonl"
    several.write_text('{"title": "x", "body": "y"}\n')
    assert open_texts(several, column="body").column == "body"
    with pytest.raises(UnusableInput, match=r"which one to embed\? Name one of its columns with --column: title, body"):
        open_texts(several)
    with pytest.raises(UnusableInput, match=r"no column bodi \(nearest: body\)"):
        open_texts(several, column="bodi")
    with pytest.raises(UnusableInput, match=r"no column key.*--id-column.*: "):
        open_texts(several, column="body", ids="key")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": null}\n', "has no text in text of row 1"),
        ("a.jsonl", '{"text": "x"}\n{"text": 7}\n', "no text but int in text of row 1"),
        ("a.jsonl", '{"text": "x"}\n{"text"\n', "a line that is not JSON"),
        ("a.jsonl", '{"text": "x"}\n[]\n', "a list in a line, expected an object"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.csv", "text,n\nx,1\ny\n", "has 1 fields in the row that begins 'y', its header 2"),
        ("a.csv", 'text,n\n"x,1\n', "is not CSV that can be read"),
        ("a.csv", "text,n\n", "holds no rows"),
        ("a.csv", b"text,n\n\xff,1\n", "is not UTF-8 text"),
        ("a.csv", "", "holds no rows"),
        ("a.csv", "text,text\nx,y\n", "more than one column called 'text'"),
        ("a.jsonl", '{"text": ' + "[" * 200 + "]" * 200 + "}", "not JSON, .*: nested too deeply"),
        ("a.parquet", "PAR1", "is not a Parquet file"),
        ("a.xlsx", "x", "Parquet, JSONL and CSV can be read"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: str | bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(UnusableInput, match=words):
        read_all(path, 4)


def test_parquet_with_a_damaged_page(tmp_path: Path) -> None:
    """Its footer is sound, so it is noticed when rows are read."""
    path = write_texts(tmp_path / "a.parquet", some_texts(20))
    sound = path.read_bytes()
    path.write_bytes(sound[:4] + bytes(40) + sound[44:])

    with pytest.raises(UnusableInput, match="is not a Parquet file that can be read"):
        read_all(path, 4)


@pytest.mark.parametrize("names", [["text", "when"], ["when", "text"]])
def test_parquet_values_that_python_lacks(names: list[str], tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    when = pyarrow.array([2**31 - 1, 0], pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a", "b"]), when], names=names), path)

    with pytest.raises(UnusableInput, match="is not a Parquet file that can be read: days=2147483647"):
        read_all(path, 4, ids="when")


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["c", "d"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "text"]), path)

    with pytest.raises(UnusableInput, match="more than one column called 'text'"):
        read_all(path, 4)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match="does not exist"):
        open_texts(tmp_path / "a.csv")
    with pytest.raises(UnusableInput, match="is a directory"):
        open_texts(tmp_path)
