"""Which servers take a model or an adapter directory, and what they lose of it: told from files, by rules.

The rules are taken from the servers' sources, and each names the place.
"""

from ingraft.serving.doctor import Diagnosis, ServerDiagnosis, examine
from ingraft.serving.fix import rewrite

__all__ = ["Diagnosis", "ServerDiagnosis", "examine", "rewrite"]
