"""`ingraft methods`: the PEFT methods and how each of them is merged."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import typer

from ingraft.cli import show
from ingraft.methods.method import Method
from ingraft.methods.table import METHODS

_COLUMNS = ("Method", "PEFT type", "Route", "Change", "Layers", "Source, or why not")


def methods(
    format: Annotated[Literal["human", "json", "markdown"], typer.Option(help="How to print the table.")] = "human",
) -> None:
    """List the PEFT methods: how each is merged, or why it cannot be."""
    if format == "json":
        show.json([_facts(method) for method in METHODS])
    elif format == "markdown":
        typer.echo(_markdown())
    else:
        _print_table()


def _facts(method: Method) -> dict[str, str | list[str]]:
    return {
        "method": method.name,
        "peft_type": method.peft_type,
        "route": method.route,
        "change": method.change,
        "layers": _layers(method),
        "source": method.source,
        "reason": method.reason,
    }


def _layers(method: Method) -> list[str]:
    return [] if method.route == "refused" else sorted(method.kinds)


def _cells(method: Method) -> tuple[str, ...]:
    why = " · ".join(part for part in (method.source, method.reason) if part)
    return method.name, method.peft_type, method.route, method.change, ", ".join(_layers(method)), why


def _markdown() -> str:
    rows = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, METHODS)]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", table)


def _print_table() -> None:
    from rich.text import Text

    style = {"streamed": "green", "in-memory": "yellow", "refused": "red"}
    table = show.table()
    for column in _COLUMNS:
        table.add_column(column, overflow="fold")
    for method in METHODS:
        table.add_row(*(Text(cell, style.get(cell, "")) for cell in _cells(method)))
    show.print_table(table, rows_are_lines=True)
