"""Base weights on disk: which tensors there are and where their bytes lie. Knows no PEFT."""

from ingraft.checkpoint.checkpoint import Checkpoint, Shard, find_weights, open_checkpoint
from ingraft.checkpoint.header import (
    FLOAT_NAMES,
    Header,
    TensorInfo,
    dtype_name,
    read_header,
    tensor_nbytes,
    write_header,
)

__all__ = [
    "FLOAT_NAMES",
    "Checkpoint",
    "Header",
    "Shard",
    "TensorInfo",
    "dtype_name",
    "find_weights",
    "open_checkpoint",
    "read_header",
    "tensor_nbytes",
    "write_header",
]
