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
    from ingraft.adapted import load_adapted as load_adapted
    from ingraft.embedding.run import embed as embed
    from ingraft.errors import CheckFailed as CheckFailed
    from ingraft.errors import IngraftError as IngraftError
    from ingraft.errors import UnusableInput as UnusableInput
    from ingraft.exporters.run import export as export
    from ingraft.exporters.static import export_static as export_static
    from ingraft.inspection import inspect as inspect
    from ingraft.live_merge import merge_trained as merge_trained
    from ingraft.merge_callback import MergeCallback as MergeCallback
    from ingraft.pipeline import MergeResult as MergeResult
    from ingraft.pipeline import merge as merge
    from ingraft.plan import plan_merge as plan_merge
    from ingraft.proof import verify as verify
    from ingraft.steps import MergePlan as MergePlan
    from ingraft.upload.run import push as push
    from ingraft.verification.report import Check as Check
    from ingraft.verification.report import VerificationReport as VerificationReport

__version__ = "0.1.0"

# Every public name and the module that it is imported from when it is asked for.
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
    "merge_trained": "live_merge",
    "plan_merge": "plan",
    "push": "upload.run",
    "verify": "proof",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `import ingraft` itself costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'ingraft' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"ingraft.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
