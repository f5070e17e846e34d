"""The proof as one HTML page that a person can read: the verdict, and all that it rests on."""

from ingraft.report.page import check_report, write_report

__all__ = ["check_report", "write_report"]
