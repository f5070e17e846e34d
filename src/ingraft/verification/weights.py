"""The weight proof: what was written is read back and compared with the base's bytes and the adapted layers' forward.

Every byte of base and output is read once. Untouched tensors must be equal; replaced ones must be the adapter's
numbers, rounded once; of every edited tensor a random probe x is asked for W′·x and compared with what the adapted
layer answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ingraft.adapter.adapter import read_tensors
from ingraft.checkpoint import Header, TensorInfo, read_header
from ingraft.checkpoint.transfer import OpenFiles, open_files
from ingraft.errors import UnusableInput
from ingraft.steps import MergePlan, MergeStep, OutputShard
from ingraft.threads import one_thread_each
from ingraft.verification.files import no_adapter_left
from ingraft.verification.probe import ProbeResult, probe_step, same_numbers
from ingraft.verification.read import CHUNK_ELEMENTS, load, load_part
from ingraft.verification.report import Check
from ingraft.verification.truth import Truth, asks_peft, open_truth

Progress = Callable[[int], None]
_MOST_NAMED = 3
_NO_PROBES: tuple[ProbeResult, ...] = ()


def verify_weights(
    plan: MergePlan, folder: Path, *, workers: int = 2, progress: Progress | None = None
) -> tuple[Check, ...]:
    """Compare the merged model in `folder` with base and adapter, as `plan` says it must be."""
    with WeightProof(plan, folder, workers=workers, progress=progress) as proof:
        return proof.checks()


class WeightProof:
    """The proof of one merge, a file of weights at a time: while the system still has in memory what was written."""

    def __init__(self, plan: MergePlan, folder: Path, *, workers: int = 2, progress: Progress | None = None) -> None:
        self._plan, self._folder, self._workers = plan, folder, workers
        self._tell = progress or (lambda count: None)
        self._open = ExitStack()
        self._faults: dict[str, str] = {}  # by file that was checked, "" where there is none
        self._results: list[_StepResult] = []

    def __enter__(self) -> WeightProof:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def check(self, shard: OutputShard) -> None:
        """Check the tensors of a file that is complete."""
        try:
            header = read_header(self._folder / shard.file)
        except UnusableInput as error:
            self._faults[shard.file] = error.message
            return
        fault = self._faults[shard.file] = _fault(shard, header)
        if fault:
            return
        context, pool = self._tools
        written = {info.name: info for info in header.tensors}
        jobs = [pool.submit(_check_step, context, step, written[step.tensor], self._tell) for step in shard.steps]
        self._results += [job.result() for job in jobs]

    def checks(self) -> tuple[Check, ...]:
        """What was found, in files that were not checked before too."""
        for shard in self._plan.shards:
            if shard.file not in self._faults:
                self.check(shard)
        structure = _structure(self._plan, self._folder, next(filter(None, self._faults.values()), ""))
        if not structure.passed:
            return (structure,)
        return (structure, *_checks(self._plan, self._results), no_adapter_left(self._folder))

    @cached_property
    def _tools(self) -> tuple[_Context, Executor]:
        """Open from the first file on, when torch is loaded where an answer is asked of PEFT, until the proof ends."""
        if any(asks_peft(edit) for edit in self._plan.edits()):
            import torch  # noqa: F401
        self._open.enter_context(one_thread_each())
        files = self._open.enter_context(open_files())
        truth = self._open.enter_context(open_truth(self._plan))
        return _Context(files, truth), self._open.enter_context(ThreadPoolExecutor(self._workers))


@dataclass(frozen=True)
class _Context:
    files: OpenFiles
    truth: Truth


@dataclass(frozen=True)
class _StepResult:
    step: MergeStep
    difference: str
    probes: tuple[ProbeResult, ...]


def _structure(plan: MergePlan, folder: Path, fault: str) -> Check:
    """Every tensor that the plan names is in its file with its dtype and shape, and nothing else; or the `fault`."""
    meaning = "tensors, dtypes, shapes and files are as planned"
    for path in [carried.path for carried in plan.carried] + [written.path for written in plan.written]:
        if not fault and not (folder / path).is_file():
            fault = f"{path} is missing"
    return Check("structure", not fault, meaning, where=fault)


def _shown(tensor: tuple[str, tuple[int, ...]] | None, otherwise: str) -> str:
    return f"{tensor[0]} {list(tensor[1])}" if tensor else otherwise


def _fault(shard: OutputShard, header: Header) -> str:
    found = {info.name: (info.dtype, info.shape) for info in header.tensors}
    wanted = {step.tensor: (step.dtype, step.shape) for step in shard.steps}
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            there, planned = _shown(found.get(name), "missing"), _shown(wanted.get(name), "none")
            return f"{name} in {shard.file} is {there}, planned {planned}"
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
        if not np.array_equal(a, b):
            first = int(np.argmax(a != b))
            return f"{source.name} differs from the base at byte {offset + first}"
    return ""


def _cast_difference(files: OpenFiles, step: MergeStep, written: TensorInfo) -> str:
    assert step.source is not None
    for start in range(0, step.elements, CHUNK_ELEMENTS):
        stop = min(start + CHUNK_ELEMENTS, step.elements)
        found = load(files, written, start, stop, slot=1)
        if not same_numbers(load(files, step.source, start, stop, slot=0), step.source.dtype, found, step.dtype):
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
