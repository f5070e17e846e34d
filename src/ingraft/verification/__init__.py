"""Is the merged model the base plus the adapter? Asks files and forward passes, never the formulas."""

from ingraft.verification.report import Check, VerificationReport

__all__ = ["Check", "VerificationReport"]
