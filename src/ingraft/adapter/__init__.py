"""A PEFT adapter on disk: where it lies, what its config says, and its tensors by target module."""

from ingraft.adapter.adapter import Adapter, AdapterConfig, open_adapter, open_adapters
from ingraft.adapter.grouping import AdapterTensors, SavedParameter, TargetModule, group_tensors
from ingraft.adapter.patterns import check_patterns

__all__ = [
    "Adapter",
    "AdapterConfig",
    "AdapterTensors",
    "SavedParameter",
    "TargetModule",
    "check_patterns",
    "group_tensors",
    "open_adapter",
    "open_adapters",
]
