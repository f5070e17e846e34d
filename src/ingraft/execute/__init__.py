"""A plan's bytes, written into a directory that nobody sees yet. Decides nothing."""

from ingraft.execute.figures import StepFigures
from ingraft.execute.run import Execution, default_workers, execute
from ingraft.execute.writing import Written

__all__ = ["Execution", "StepFigures", "Written", "default_workers", "execute"]
