"""What differs between two model directories: tensor by tensor in bounded memory, and file by file."""

from ingraft.diff.compare import ModelDiff, TensorDiff, compare_models
from ingraft.diff.small_files import FileDiff

__all__ = ["FileDiff", "ModelDiff", "TensorDiff", "compare_models"]
