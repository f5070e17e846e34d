"""Is the merged model the base plus the adapter? Asks the files and the adapted model's forward pass, never the formulas."""

from ingraft.verification.report import Check, VerificationReport

__all__ = ["Check", "VerificationReport"]
