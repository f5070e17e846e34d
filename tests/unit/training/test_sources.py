"""Rows out of directories and data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.sources import read_source
from ingraft.training.tables import Row
from ingraft.training.tasks import task_of_beir

ROWS = [{"query": "a", "pos": ["b", "c"]}, {"query": "d", "pos": ["e"]}]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "nfcorpus"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "T1", "text": "one"},
        {"_id": "d2", "title": "", "text": "two"},
        {"_id": "d3", "text": "x"},
    ]
    queries = [{"_id": f"q{n}", "text": f"query {n}"} for n in range(3)]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(header + "q0\td1\t2\nq0\td3\t0\nq1\td2\t1\n")
    (folder / "qrels" / "test.tsv").write_text(header + "q2\td1\t1\nq2\td2\t1\nq0\td3\t0\n")
    return folder


def test_a_beir_directory(beir: Path) -> None:
    table = read_source(str(beir))
    assert table.columns == ("query", "document")
    assert table.rows == (Row(2, ("query 0", "T1 one")), Row(4, ("query 1", "two")))
    task = task_of_beir(beir, "test")
    assert task.queries == {"q2": "query 2"}
    assert task.corpus == {"d1": "T1 one", "d2": "two", "d3": "x"}
    assert task.relevant == {"q2": {"d1", "d2"}}


def test_judgements_that_do_not_fit(beir: Path) -> None:
    with pytest.raises(UnusableInput, match=r"trian.tsv does not exist \(nearest: train\)") as error:
        read_source(str(beir), split="trian")
    assert error.value.hint == "Choose a split with --split: test, train"
    with (beir / "qrels" / "train.tsv").open("a") as file:
        file.write("q9\td1\t1\nq1\td9\t1\n")
    broken = read_source(str(beir)).broken
    assert broken == ("line 5: the query q9 does not exist", "line 6: the document d9 does not exist")
    with (beir / "qrels" / "train.tsv").open("a") as file:
        file.write("q1\td1\tmuch\n")
    with pytest.raises(UnusableInput, match="line 7: the score is 'much', expected a number"):
        read_source(str(beir))


def test_a_datasets_directory(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"train": rows, "dev": rows.select([1])}).save_to_disk(str(tmp_path / "several"))
    for name in ("one", "several"):
        table = read_source(str(tmp_path / name))
        assert table.columns == ("query", "pos")
        assert table.rows == (Row(1, ("a", ["b", "c"])), Row(2, ("d", ["e"])))
    assert read_source(str(tmp_path / "several"), split="dev").rows == (Row(1, ("d", ["e"])),)
    with pytest.raises(UnusableInput, match=r"has no split test; it has train, dev"):
        read_source(str(tmp_path / "several"), split="test")


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b'{"_data_files": [{"filename": 3}]}', b"\xff", b'{"_data_files": 1}']
)
def test_a_damaged_datasets_directory(content: bytes, tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "one"))
    (tmp_path / "one" / "state.json").write_bytes(content)

    with pytest.raises(UnusableInput, match=r"one is no data set that can be read"):
        read_source(str(tmp_path / "one"))


def test_dates_that_python_lacks(tmp_path: Path) -> None:
    import pyarrow
    from datasets import Dataset

    when = pyarrow.array([2**31 - 1], pyarrow.date32())
    Dataset(pyarrow.table({"query": ["a"], "when": when})).save_to_disk(str(tmp_path / "one"))

    with pytest.raises(UnusableInput, match=r"one has values that cannot be read: days=2147483647"):
        read_source(str(tmp_path / "one"))


def test_a_directory_as_the_hub_has_it(tmp_path: Path) -> None:
    from datasets import Dataset

    folder = tmp_path / "dataset" / "data"
    folder.mkdir(parents=True)
    Dataset.from_list(ROWS).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    assert read_source(str(folder.parent)).rows[0] == Row(1, ("a", ["b", "c"]))


def test_a_hub_id_that_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(name: str, subset: str | None) -> None:
        raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UnusableInput, match="The data set nobody/nothing could not be loaded: Dataset"):
        read_source("nobody/nothing")
    with pytest.raises(UnusableInput, match="does not exist"):  # a file that is missing is not looked for elsewhere
        read_source("folder/rows.csv")


def test_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load_dataset(name: str, subset: str | None) -> object:
        asked.append((name, subset))
        return datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_source("someone/pairs", subset="triplet").rows[1] == Row(2, ("d", ["e"]))
    assert asked == [("someone/pairs", "triplet")]


def test_a_missing_file_is_known_without_reading_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingraft.training.sources import check_source

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("not even a table")

    check_source("pairs.csv")
    check_source("org/pairs")  # may be on the Hub, which is not asked
    with pytest.raises(UnusableInput, match=r"pair.csv does not exist \(nearest: pairs.csv\)"):
        check_source("pair.csv")
