"""The proof from disk: a merged directory against base and adapter, or against its manifest alone."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingraft.acceptance import with_embeddings
from ingraft.base_precision import BasePrecision
from ingraft.checkpoint import TensorInfo, read_header
from ingraft.errors import UnusableInput
from ingraft.hub import local_directory
from ingraft.pipeline import weights_of_base
from ingraft.plan import FILE_LAYOUTS, STORED_DTYPES, DType, FileLayout, plan_merge
from ingraft.progress import Progress, Silent
from ingraft.steps import MergePlan
from ingraft.verification.report import Check, VerificationReport

_OPTIONS: Mapping[str, DType] = {stored: option for option, stored in STORED_DTYPES.items()}


def verify(
    merged: str | Path,
    adapter: str | Path | None = None,
    *,
    base: str | Path | None = None,
    base_precision: BasePrecision | None = None,
    texts: Sequence[str] | None = None,
    task: str | Path | None = None,
    key: str | Path | None = None,
    embeddings: bool = True,
    trust_remote_code: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    on_plan: Callable[[MergePlan], None] | None = None,
) -> VerificationReport:
    """Prove from disk that `merged` equals base + `adapter`: weights and files, and embeddings through PEFT itself.

    Without an adapter: that every file in `merged` is the one that its manifest names.

    texts       are embedded by the models (default: a set that the package carries)
    task        a file of pairs with scores, or a BEIR directory: base, adapted and merged model are measured with it
    key         a PEM file with the public key of whoever signed `merged`: its signature is checked as well
    embeddings  False: no model is run; weights and files are checked alone
    Raises UnusableInput when the inputs cannot be compared; a failed check, also a merged model that is damaged, is in
    the report, not an exception.
    """
    from ingraft.integrity import has_manifest, verify_hashes, verify_manifest
    from ingraft.signing import public_key, verify_signature

    folder = local_directory(merged, role="merged model")
    signature = (verify_signature(folder, public_key(Path(key))),) if key is not None else ()
    if adapter is None:
        # A signature covers the files by itself, so it will do for a model that something else has made.
        alone = signature and not has_manifest(folder)
        manifest = () if alone else verify_manifest(folder, workers=workers or min(8, os.cpu_count() or 1))
        return VerificationReport((*manifest, *signature))

    from ingraft.execute import default_workers
    from ingraft.verification.files import verify_files
    from ingraft.verification.weights import verify_weights

    shown = progress or Silent()
    workers = workers or default_workers()
    chosen_task = read_task(Path(task)) if task is not None else None
    plan = _planned(folder, adapter, base, base_precision, trust_remote_code)
    if on_plan:
        on_plan(plan)
    with weights_of_base(plan, workers, shown):
        shown.begin("weights", sum(step.nbytes for step in plan.steps()))
        weights = verify_weights(plan, folder, workers=workers, progress=shown.advance)
        shown.end()
        files = verify_files(plan, folder)
        report = VerificationReport((*weights, *files, *verify_hashes(folder, workers=workers), *signature))
        if embeddings and _can_be_run(weights[0], files, plan):
            shown.begin("embeddings", 0)
            report = with_embeddings(report, plan, folder, adapter, texts, chosen_task)
            shown.end()
    return report


def read_task(path: Path) -> dict[str, Any]:
    """The user's own evaluation in JSON types: pairs with scores, rows of queries and documents, or a BEIR directory.

    Of a BEIR directory the split `test` is taken, else its only one. Raises UnusableInput for anything else.
    """
    from ingraft.training.beir import is_beir, judged_splits
    from ingraft.training.data import read_training_data
    from ingraft.training.tasks import RetrievalTask, SimilarityTask, held_out_task, task_of_beir

    if is_beir(path):
        splits = judged_splits(path)
        found: Any = task_of_beir(path, "test" if "test" in splits or len(splits) != 1 else splits[0])
    else:
        data = read_training_data(path)
        found = held_out_task(data, range(len(data)))
    if isinstance(found, SimilarityTask):
        return {name: list(getattr(found, name)) for name in ("sentences1", "sentences2", "scores")}
    if not isinstance(found, RetrievalTask) or not found.queries:
        raise UnusableInput(
            f"{path} holds nothing to measure with.",
            hint="Expected pairs with scores (CSV, JSONL, Parquet), or a BEIR directory (corpus, queries, qrels).",
        )
    relevant = {query: sorted(documents) for query, documents in found.relevant.items()}
    return {"queries": dict(found.queries), "corpus": dict(found.corpus), "relevant": relevant}


def _can_be_run(structure: Check, files: Sequence[Check], plan: MergePlan) -> bool:
    """A model of another structure cannot be loaded to be compared; code that is not the base's is not run at all."""
    return structure.passed and (not plan.trust_remote_code or all(check.passed for check in files))


def _planned(
    folder: Path,
    adapter: str | Path,
    base: str | Path | None,
    base_precision: BasePrecision | None,
    trust_remote_code: bool,
) -> MergePlan:
    """The merge that `folder` is held against: into the dtype and the file layout that it has."""
    plan_for = functools.partial(
        plan_merge,
        adapter,
        base,
        base_precision=base_precision,
        other_base=True,  # what was merged is proven, whatever the adapter was trained on
        trust_remote_code=trust_remote_code,
    )
    plan = plan_for()
    dtype: DType = "auto"
    found = _weights(plan, folder)
    planned = {(shard.file, step.tensor): step.dtype for shard in plan.shards for step in shard.steps}
    if any(planned.get(place, info.dtype) != info.dtype for place, info in found.items()):
        dtype = _OPTIONS.get(_most(list(found.values())), "auto")
    return _nearest_layout(lambda layout: plan_for(dtype=dtype, layout=layout), folder)


def _nearest_layout(plan_for: Callable[[FileLayout], MergePlan], folder: Path) -> MergePlan:
    """The plan whose small files are those in `folder`, or most of them: the directory does not say its layout."""
    from ingraft.verification.files import differing_files

    plans: list[tuple[int, MergePlan]] = []
    for layout in FILE_LAYOUTS:
        plan = plan_for(layout)
        plans.append((len(differing_files(plan, folder)), plan))
        if not plans[-1][0]:
            break
    return min(plans, key=lambda found: found[0])[1]


def _weights(plan: MergePlan, folder: Path) -> dict[tuple[str, str], TensorInfo]:
    """Tensors by (file, name), of the files that `plan` names and that can be read."""
    found: dict[tuple[str, str], TensorInfo] = {}
    for shard in plan.shards:
        try:
            found |= {(shard.file, info.name): info for info in read_header(folder / shard.file).tensors}
        except UnusableInput:  # missing or damaged: a check says so
            continue
    return found


def _most(tensors: Sequence[TensorInfo]) -> str:
    """The dtype that most of the floating-point elements have."""
    count = dict.fromkeys(STORED_DTYPES.values(), 0)
    for info in tensors:
        if info.dtype in count:
            count[info.dtype] += info.elements
    return max(count, key=lambda dtype: count[dtype])
