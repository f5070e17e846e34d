"""The proof as one HTML page that a person can read: verdict, what was merged, checks, what changed, what it answers."""

from ingraft.report.page import check_report, write_report

__all__ = ["check_report", "write_report"]
