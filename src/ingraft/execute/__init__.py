"""A plan's bytes, written into a directory that nobody sees yet. Decides nothing."""

from ingraft.execute.figures import StepFigures
from ingraft.execute.run import default_workers, execute

__all__ = ["StepFigures", "default_workers", "execute"]
