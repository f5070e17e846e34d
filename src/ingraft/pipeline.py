"""The one visible pipeline: plan → execute → verify → publish."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ingraft.acceptance import proven, refuse_no_change
from ingraft.base_precision import BasePrecision, dequantised_weights
from ingraft.errors import UnusableInput
from ingraft.execute import Execution, StepFigures, Written, default_workers, execute
from ingraft.flush import flushing
from ingraft.hub import expanded
from ingraft.machine import available_memory
from ingraft.output_files import SIGNATURE
from ingraft.plan import DType, FileLayout, plan_merge
from ingraft.progress import Progress, Silent
from ingraft.publish import check_output, check_room, clean_up, published
from ingraft.signing import Signer, private_key
from ingraft.signing import sign as sign_files
from ingraft.steps import MergePlan, OutputShard
from ingraft.unchanged import unchanged
from ingraft.verification.provable import check_provable
from ingraft.verification.report import Check, VerificationReport


@dataclass(frozen=True)
class MergeResult:
    """A published merge.

    figures    by edited tensor; none when the proof was switched off
    report     None when the proof was switched off
    cloned     bytes of untouched tensors that the disk holds once, for base and output
    signature  its file in `output`; None when none was asked for
    """

    output: Path
    plan: MergePlan
    figures: tuple[StepFigures, ...]
    report: VerificationReport | None
    seconds: float
    cloned: int
    signature: Path | None = None


def merge(
    adapter: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    dtype: DType = "auto",
    base_precision: BasePrecision | None = None,
    layout: FileLayout = "portable",
    other_base: bool = False,
    overwrite: bool = False,
    verify: bool = True,
    sign: str | Path | None = None,
    trust_remote_code: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    on_plan: Callable[[MergePlan], None] | None = None,
    approve: Callable[[Path], None] | None = None,
) -> MergeResult:
    """Merge `adapter` into its base and publish the plain model at `output`, or raise and leave nothing behind.

    sign     a PEM file with the private key that signs the output's files
    approve  is shown the directory that is about to be published; what it raises is raised, and nothing is
    Raises UnusableInput (nothing was written) or CheckFailed (the proof failed and nothing was published).
    """
    output = expanded(output)
    clean_up(output)
    check_output(output, overwrite=overwrite)
    plan = plan_merge(
        adapter,
        base,
        dtype=dtype,
        base_precision=base_precision,
        layout=layout,
        other_base=other_base,
        trust_remote_code=trust_remote_code,
    )
    if on_plan:
        on_plan(plan)
    return run_plan(
        plan,
        output,
        overwrite=overwrite,
        verify=verify,
        sign=sign,
        workers=workers,
        progress=progress,
        approve=approve,
    )


def run_plan(
    plan: MergePlan,
    output: str | Path,
    *,
    overwrite: bool = False,
    verify: bool = True,
    embeddings: bool = False,
    sign: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    approve: Callable[[Path], None] | None = None,
) -> MergeResult:
    """Execute, verify and publish a plan. `embeddings`: the proof runs the three models on texts as well."""
    from ingraft.card import write_card
    from ingraft.hashes import FileHashes
    from ingraft.manifest import write_manifest

    output = expanded(output)
    if workers is not None and workers < 1:
        raise UnusableInput(f"workers is {workers}; expected at least 1.")
    key = Path(sign) if sign is not None else None
    clean_up(output)
    inputs = (plan.given_base, plan.adapter.root, *((key,) if key else ()))
    check_output(output, overwrite=overwrite, inputs=inputs)
    signer = _signer(plan, key) if key else None
    check_room(output, disk=plan.needed_disk, memory=plan.needed_memory)
    if verify:
        check_provable(plan)
    shown = progress or Silent()
    started = time.monotonic()
    workers = workers or default_workers()
    with (
        FileHashes() as hashes,
        published(output, overwrite=overwrite) as folder,
        weights_of_base(plan, workers, shown),
        unchanged([*plan.base.weights, *plan.adapter.weights, *(carried.source for carried in plan.carried)]),
        flushing({folder / shard.file: shard.nbytes for shard in plan.shards}) as flush,
    ):
        if verify:
            # File by file, as they are merged: what one stage has read is still in memory for the next.
            for weights, shard in zip_longest(plan.base.weights, plan.shards):
                if shard is not None:
                    hashes.follow(folder / shard.file, shard.nbytes, beside=weights)
                elif weights is not None:
                    hashes.start([weights])

        def written(path: Path, position: int, count: int) -> None:
            hashes.written(path, position, count)
            flush.written(path, count)
            shown.advance(count)

        def finished(shard: OutputShard) -> None:
            if not fits:
                flush.let_go(folder / shard.file)

        fits = _fits_in_memory(plan)
        to_prove = sum(step.nbytes for step in plan.steps()) if verify else 0
        shown.begin("merge", sum(shard.nbytes for shard in plan.shards) + to_prove)
        done, checks = _carried_out(
            plan, folder, verify=verify, workers=workers, written=written, finished=finished, shown=shown
        )
        shown.end()
        refuse_no_change(plan, done)
        report = proven(plan, folder, checks, done.figures, embeddings=embeddings, shown=shown) if verify else None
        write_card(plan, folder, report)
        write_manifest(plan, folder, report, hashes)
        if signer is not None:
            sign_files(folder, signer)
        if approve is not None:
            approve(folder)
    seconds = time.monotonic() - started
    signature = output / SIGNATURE if signer is not None else None
    return MergeResult(output, plan, done.figures, report, seconds, done.cloned, signature)


def _signer(plan: MergePlan, key: Path) -> Signer:
    """What signs with `key`, which is secret: it must not be a file that the merge copies."""
    real = key.resolve()
    for carried in plan.carried:
        if carried.source.resolve() == real:
            raise UnusableInput(f"{key} would be copied into the merged model.", hint="Move the key elsewhere.")
    return private_key(key)


def _fits_in_memory(plan: MergePlan) -> bool:
    """Are base and output small enough for the system to keep both in memory?"""
    available = available_memory()
    size = sum(shard.nbytes for shard in plan.shards) + sum(path.stat().st_size for path in plan.base.weights)
    return available is None or size < available


def _carried_out(
    plan: MergePlan,
    folder: Path,
    *,
    verify: bool,
    workers: int,
    written: Written,
    finished: Callable[[OutputShard], None],
    shown: Progress,
) -> tuple[Execution, tuple[Check, ...]]:
    """The plan's files in `folder`, and the proof of their weights: each file's as soon as it is complete.

    finished  is told of each file that is not read again
    """
    if not verify:
        return execute(plan, folder, workers=workers, measured=False, written=written, finished=finished), ()
    from ingraft.verification.weights import WeightProof

    with WeightProof(plan, folder, workers=workers, progress=shown.advance) as proof:

        def complete(shard: OutputShard) -> None:
            if plan.route == "streamed":  # two models in memory, PEFT's and the proof's, would be one too many
                proof.check(shard)
                finished(shard)

        done = execute(plan, folder, workers=workers, written=written, finished=complete)
        if plan.route == "in-memory":
            gc.collect()  # PEFT's model is full of cycles
        return done, proof.checks()


@contextmanager
def weights_of_base(plan: MergePlan, workers: int, shown: Progress) -> Iterator[None]:
    """A dequantised base has weights within the block; any other one has them anyway."""
    if plan.dequantised is None:
        yield
        return
    shown.begin("base", plan.dequantised.nbytes)
    with dequantised_weights(plan.dequantised, workers=workers, progress=shown.advance):
        shown.end()
        yield
