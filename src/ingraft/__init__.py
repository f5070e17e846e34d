"""ingraft: graft a PEFT adapter into its Sentence Transformers model. A merge that cannot half-succeed.

plan = ingraft.plan_merge("adapter/")             # every decision, nothing written
result = ingraft.merge("adapter/", "merged/")     # planned, executed, proven, published
report = ingraft.verify("merged/", "adapter/")    # the proof again, through PEFT
found = ingraft.inspect("adapter/")               # what a directory holds
ingraft.export("merged/", "onnx/", pooled=True)   # a graph that answers as the model does
ingraft.embed("merged/", "corpus.jsonl", "vectors.parquet")
ingraft.push("merged/", "me/model")               # to the Hub, in one commit
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ingraft.adapted import load_adapted
    from ingraft.embedding.run import embed
    from ingraft.errors import CheckFailed, IngraftError, UnusableInput
    from ingraft.exporters.run import export
    from ingraft.exporters.static import export_static
    from ingraft.inspection import inspect
    from ingraft.merge_callback import MergeCallback
    from ingraft.pipeline import MergeResult, merge
    from ingraft.plan import plan_merge
    from ingraft.proof import verify
    from ingraft.steps import MergePlan
    from ingraft.trained import merge_trained
    from ingraft.upload.run import push
    from ingraft.verification.report import Check, VerificationReport

__version__ = "0.1.0"

__all__ = [
    "Check",
    "CheckFailed",
    "IngraftError",
    "MergeCallback",
    "MergePlan",
    "MergeResult",
    "UnusableInput",
    "VerificationReport",
    "embed",
    "export",
    "export_static",
    "inspect",
    "load_adapted",
    "merge",
    "merge_trained",
    "plan_merge",
    "push",
    "verify",
]

_HOME = {
    "Check": "verification.report",
    "CheckFailed": "errors",
    "IngraftError": "errors",
    "MergeCallback": "merge_callback",
    "MergePlan": "steps",
    "MergeResult": "pipeline",
    "UnusableInput": "errors",
    "VerificationReport": "verification.report",
    "embed": "embedding.run",
    "export": "exporters.run",
    "export_static": "exporters.static",
    "inspect": "inspection",
    "load_adapted": "adapted",
    "merge": "pipeline",
    "merge_trained": "trained",
    "plan_merge": "plan",
    "push": "upload.run",
    "verify": "proof",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import ingraft` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'ingraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ingraft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
