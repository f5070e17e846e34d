"""A directory of the BEIR benchmark's form: corpus.jsonl, queries.jsonl and judgements in qrels/<split>.tsv."""

from __future__ import annotations

from pathlib import Path

from ingraft.errors import UnusableInput, nearest
from ingraft.training.tables import Row, Table, read_table


def is_beir(path: Path) -> bool:
    return (path / "corpus.jsonl").is_file() and (path / "queries.jsonl").is_file()


def judged_splits(path: Path) -> list[str]:
    return sorted(file.stem for file in (path / "qrels").glob("*.tsv"))


def read_beir(path: Path, split: str) -> Table:
    """A row for each query and document that is judged relevant in a split; lines are those of its file."""
    queries, corpus = beir_texts(path)
    rows, broken = [], []
    for line, query, document, relevant in _judgements(path, split):
        missing = "query" if query not in queries else "document" if document not in corpus else ""
        if missing:
            broken.append(f"line {line}: the {missing} {query if missing == 'query' else document} does not exist")
        elif relevant:
            rows.append(Row(line, (queries[query], corpus[document])))
    return Table(path, ("query", "document"), tuple(rows), tuple(broken))


def beir_texts(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Queries and documents by id; a document is its title and its text."""
    return _texts(path / "queries.jsonl"), _texts(path / "corpus.jsonl")


def relevant_documents(path: Path, split: str) -> dict[str, set[str]]:
    """Id of a query → ids of the documents that are judged relevant for it."""
    relevant: dict[str, set[str]] = {}
    for _, query, document, is_relevant in _judgements(path, split):
        if is_relevant:
            relevant.setdefault(query, set()).add(document)
    return relevant


def _texts(path: Path) -> dict[str, str]:
    table = read_table(path)
    if "_id" not in table.columns or "text" not in table.columns:
        raise UnusableInput(f"{path} has the keys {', '.join(table.columns)}; expected _id and text.")
    places = [table.columns.index(name) for name in ("_id", "title", "text") if name in table.columns]
    texts = {}
    for row in table.rows:
        identifier, *parts = (row.values[place] for place in places)
        texts[str(identifier)] = " ".join(str(part).strip() for part in parts if part).strip()
    return texts


def _judgements(path: Path, split: str) -> list[tuple[int, str, str, bool]]:
    """Line, query, document, whether it is relevant."""
    file = path / "qrels" / f"{split}.tsv"
    if not file.is_file():
        splits = judged_splits(path)
        raise UnusableInput(
            f"{file} does not exist{nearest(split, splits)}.",
            hint=f"Choose a split with --split: {', '.join(splits)}" if splits else "Are the judgements missing?",
        )
    table = read_table(file)
    if len(table.columns) != 3:
        raise UnusableInput(f"{file} has {len(table.columns)} columns; expected query-id, corpus-id and score.")
    found = []
    for row in table.rows:
        query, document, score = map(str, row.values)
        try:
            found.append((row.line, query, document, float(score) > 0))
        except ValueError:
            raise UnusableInput(f"{file}, line {row.line}: the score is {score!r}, expected a number.") from None
    return found
