"""A table out of whatever the user named: a file, a BEIR or `datasets` directory, a data set of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingraft.arrow_values import NO_COUNTERPART
from ingraft.errors import UnusableInput, first_line, nearest
from ingraft.hub import expanded, looks_like_repo_id
from ingraft.training.beir import is_beir, read_beir
from ingraft.training.tables import Row, Table, read_table


def read_source(name: str, *, subset: str | None = None, split: str = "train") -> Table:
    """The rows that `name` stands for; `subset` and `split` choose among those of a data set.

    UnusableInput when there are none, or none that can be read.
    """
    path = expanded(name)
    if path.is_dir():
        if is_beir(path):
            return read_beir(path, split)
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return _from_disk(path, split)
        if not any(path.glob("*.parquet")) and not any((path / "data").glob("*.parquet")):
            return read_table(path)  # which says what is in it
        return _load(name, subset, split)
    if _is_on_the_hub(name, path):
        return _load(name, subset, split)
    return read_table(path)


def check_source(name: str) -> None:
    """UnusableInput when `name` is a file that is missing: to be asked before a base model is fetched."""
    path = expanded(name)
    if not path.exists() and not _is_on_the_hub(name, path):
        read_table(path)  # which says so


def _is_on_the_hub(name: str, path: Path) -> bool:
    """`org/name` that is no file here; a name with the suffix of a table is a file that is missing."""
    return not path.exists() and looks_like_repo_id(name) and "/" in name and not path.suffix


def _from_disk(path: Path, split: str) -> Table:
    datasets = _datasets()
    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # of a damaged one the library lets through whatever it stumbles over
        raise UnusableInput(f"{path} is no data set that can be read: {first_line(error)}") from None
    if isinstance(found, datasets.DatasetDict):
        found = _choose_split(str(path), found, split)
    return _table(path, found)


def _load(name: str, subset: str | None, split: str) -> Table:
    datasets = _datasets()
    try:
        found = datasets.load_dataset(name, subset)
    except Exception as error:  # the library lets through whatever its readers and the network raise
        raise UnusableInput(
            f"The data set {name} could not be loaded: {first_line(error)}",
            hint="Is it a file? Give its path. Is it on the Hub? Choose one of its subsets with --subset.",
        ) from None
    return _table(Path(name), _choose_split(name, found, split))


def _choose_split(name: str, found: Any, split: str) -> Any:
    if split not in found:
        raise UnusableInput(
            f"The data set {name} has no split {split}{nearest(split, found)}; it has {', '.join(found)}.",
            hint="Choose one with --split.",
        )
    return found[split]


def _table(path: Path, dataset: Any) -> Table:
    columns = tuple(dataset.column_names)
    try:
        values = dataset.to_list()
    except NO_COUNTERPART as error:
        raise UnusableInput(f"{path} has values that cannot be read: {first_line(error)}") from None
    rows = tuple(Row(number, tuple(row[name] for name in columns)) for number, row in enumerate(values, start=1))
    if not rows:
        raise UnusableInput(f"{path} holds no rows.")
    return Table(path, columns, rows, unit="row")


def _datasets() -> Any:
    try:
        import datasets
    except ModuleNotFoundError:
        raise UnusableInput(
            "Data sets need the package datasets, which is not installed.", hint="Run: pip install 'ingraft[train]'"
        ) from None
    return datasets
