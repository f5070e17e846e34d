"""The weight proof: what was written is read back and compared with the base's bytes and the adapted layers' forward.

Every byte of base and output is read once. Untouched tensors must be equal; replaced ones must be the adapter's
numbers, rounded once; of every edited tensor a random probe x is asked for W′·x and compared with what the adapted
layer answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ingraft.adapter.adapter import read_tensors
from ingraft.checkpoint import TensorInfo, read_header
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.errors import UnusableInput
from ingraft.steps import MergePlan, MergeStep, OutputShard
from ingraft.verification.files import no_adapter_left
from ingraft.verification.probe import ProbeResult, probe_step
from ingraft.verification.read import CHUNK_ELEMENTS, load, load_part
from ingraft.verification.report import Check
from ingraft.verification.truth import Truth, open_truth

Progress = Callable[[int], None]
_MOST_NAMED = 3
_NO_PROBES: tuple[ProbeResult, ...] = ()


def verify_weights(
    plan: MergePlan, folder: Path, *, workers: int = 2, progress: Progress | None = None
) -> tuple[Check, ...]:
    """Compare the merged model in `folder` with base and adapter, as `plan` says it must be."""
    tell = progress or (lambda count: None)
    structure = _structure(plan, folder)
    if not structure.passed:
        return (structure,)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with open_files() as files, open_truth(plan) as truth, ThreadPoolExecutor(workers) as pool:
            pairs = [pair for shard in plan.shards for pair in _written(shard, folder)]
            jobs = [
                pool.submit(_check_step, _Context(files, truth), step, info, tell)
                for step, info in pairs  # in the files' order, as they are hashed meanwhile: the disk is read once
            ]
            results = [job.result() for job in jobs]
    finally:
        torch.set_num_threads(threads)
    return (structure, *_checks(plan, results), no_adapter_left(folder))


def _written(shard: OutputShard, folder: Path) -> Iterator[tuple[MergeStep, TensorInfo]]:
    """Each step with its tensor in the written file."""
    found = {info.name: info for info in read_header(folder / shard.file).tensors}
    for step in shard.steps:
        yield step, found[step.tensor]


@dataclass(frozen=True)
class _Context:
    files: OpenFiles
    truth: Truth


@dataclass(frozen=True)
class _StepResult:
    step: MergeStep
    difference: str
    probes: tuple[ProbeResult, ...]


def _structure(plan: MergePlan, folder: Path) -> Check:
    """Every tensor that the plan names is in its file with its dtype and shape, and nothing else."""
    meaning = "tensors, dtypes, shapes and files are as planned"
    fault = next((fault for shard in plan.shards if (fault := _shard_fault(shard, folder))), "")
    for path in [carried.path for carried in plan.carried] + [written.path for written in plan.written]:
        if not fault and not (folder / path).is_file():
            fault = f"{path} is missing"
    return Check("structure", not fault, meaning, where=fault)


def _shard_fault(shard: OutputShard, folder: Path) -> str:
    try:
        header = read_header(folder / shard.file)
    except UnusableInput as error:
        return error.message
    found = {info.name: (info.dtype, info.shape) for info in header.tensors}
    wanted = {step.tensor: (step.dtype, step.shape) for step in shard.steps}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            return f"{name} in {shard.file} is {found.get(name)}, planned {wanted.get(name)}"
    if dict(header.metadata) != dict(shard.metadata):
        return f"the metadata of {shard.file} are {dict(header.metadata)}, planned {dict(shard.metadata)}"
    return ""


def _check_step(context: _Context, step: MergeStep, written: TensorInfo, tell: Progress) -> _StepResult:
    difference, probes = "", _NO_PROBES
    if step.action == "copy":
        assert step.source is not None
        difference = _first_difference(context.files, step.source, written)
    elif step.action == "cast":
        difference = _cast_difference(context.files, step, written)
    else:
        probes = probe_step(context.files, context.truth, step, written)
    tell(written.nbytes)
    return _StepResult(step, difference, probes)


def _first_difference(files: OpenFiles, source: TensorInfo, written: TensorInfo) -> str:
    """Where the bytes of two tensors differ first, or nothing."""
    size = CHUNK_ELEMENTS * 4
    for offset in range(0, source.nbytes, size):
        count = min(size, source.nbytes - offset)
        a = load_part(files, source.file, source.start + offset, count, slot=0)
        b = load_part(files, written.file, written.start + offset, count, slot=1)
        if not np.array_equal(a.numpy(), b.numpy()):  # ten times faster than torch.equal on bytes
            first = int((a != b).nonzero()[0])
            return f"{source.name} differs from the base at byte {offset + first}"
    return ""


def _cast_difference(files: OpenFiles, step: MergeStep, written: TensorInfo) -> str:
    assert step.source is not None
    for start in range(0, step.elements, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, step.elements)
        found = load(files, written, start, stop, slot=1)
        if not torch.equal(load(files, step.source, start, stop, slot=0).to(found.dtype), found):
            return f"{step.tensor} is not the base's numbers in {step.dtype}"
    return ""


def _checks(plan: MergePlan, results: Sequence[_StepResult]) -> list[Check]:
    untouched = [result for result in results if result.step.action in ("copy", "cast")]
    differing = [result.difference for result in untouched if result.difference]
    probes = [probe for result in results for probe in result.probes]
    worst = max(probes, key=lambda probe: probe.ratio, default=None)
    beyond = [probe.where for probe in sorted(probes, key=lambda probe: -probe.ratio) if not probe.passed]
    used = {(info.file, info.name) for edit in plan.edits() for info in edit.inputs.values()}
    given = {(path, info.name) for path in plan.adapter.weights for info in read_tensors(path)}
    return [
        Check(
            "adapter tensors",
            used == given,
            "every tensor of the adapter went into the merge",
            len(used & given),
            len(given),
            ", ".join(sorted(name for _, name in given - used)[:3]),
        ),
        Check(
            "untouched tensors",
            not differing,
            "tensors that the adapter does not touch are the base's, bit for bit",
            len(untouched) - len(differing),
            len(untouched),
            _named(differing),
        ),
        Check(
            "probes",
            all(probe.passed for probe in probes),
            "W′·x of every edited tensor against the adapted layer's forward, as a share of what rounding allows",
            worst.ratio if worst else 0.0,
            1.0,
            _named(beyond) if beyond else worst.where if worst else "",
        ),
    ]


def _named(faults: Sequence[str]) -> str:
    return ", ".join(faults[:_MOST_NAMED]) + (f" and {len(faults) - _MOST_NAMED} more" if faults[_MOST_NAMED:] else "")
