"""How a verification is printed: its checks, the user's task, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from ingraft.cli import show
from ingraft.cli.show import line, plural

if TYPE_CHECKING:
    from ingraft.verification.report import VerificationReport


def checks(report: VerificationReport) -> None:
    """Every check as a row: measured, allowed, meaning."""
    table = show.table()
    for title in ("", "check", "measured", "allowed", "meaning"):
        table.add_column(title, overflow="fold")
    for check in report.checks:
        mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(mark, check.name, _number(check.value), _number(check.limit), check.meaning)
    show.print_table(table)


def task(report: VerificationReport) -> None:
    """How base, adapted and merged model do in the user's task, with intervals of the differences."""
    measured = report.figures.get("task")
    if not measured:
        return
    table = show.table("task")
    for title in ("base", "adapted", "merged", "adapted − base", "merged − adapted"):
        table.add_column(title, justify="right")
    for row in measured["metrics"]:
        values = [f"{row[name]:.4f}" for name in ("base", "adapted", "merged")]
        table.add_row(
            row["metric"], *values, *(_interval(row[name]) for name in ("adapted_minus_base", "merged_minus_adapted"))
        )
    unit = "pairs" if measured["kind"] == "pairs" else f"queries, {measured['documents']:,} documents"
    line("task", f"{measured['items']:,} {unit} · brackets: 95 % of {measured['resamples']:,} resamples")
    show.print_table(table)


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def verdict(report: VerificationReport, word: str = "proven") -> None:
    """The last lines of a verification: `word`, or what failed and where, a line each, so that logs can be searched."""
    if report.passed:
        line(word, f"{plural(len(report.checks), 'check')} passed", style="bold green")
        return
    for check in report.failed:
        line("FAILED", f"{check.name}: {check.where}" if check.where else check.name, style="bold red")
    line("", f"{len(report.failed)} of {plural(len(report.checks), 'check')} failed")
