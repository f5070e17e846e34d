"""Pages that a person can read: the proof of a merge, and a training run, with all that the verdict rests on."""

from ingraft.report.html import check_report
from ingraft.report.page import write_report
from ingraft.report.training_page import MergeVerdict, write_training_report

__all__ = ["MergeVerdict", "check_report", "write_report", "write_training_report"]
