"""Every decision of a merge, made from headers and JSON alone: which tensors change and why, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ingraft.adapter import Adapter, AdapterTensors, SavedParameter, group_tensors, open_adapters
from ingraft.base_model import BaseModel, open_base, quantisation_of, vocabulary_sizes
from ingraft.base_precision import BasePrecision, Dequantised, at_precision
from ingraft.checkpoint import FLOAT_NAMES
from ingraft.completeness import check_layers_covered, with_configured_modules
from ingraft.config_files import config_changes, index_file
from ingraft.errors import UnusableInput, nearest, one_of
from ingraft.experts import has_target_parameters, with_parameters
from ingraft.fingerprint import check_trained_on
from ingraft.heads import check_head_stored
from ingraft.layout import read_layout
from ingraft.methods.method import Method
from ingraft.methods.table import method_for
from ingraft.naming import Names, find_names
from ingraft.output_files import OutputFiles, output_files, output_folders
from ingraft.portable import ModelFiles, portable_files, with_portable
from ingraft.shards import check_editable, edits_by_tensor, output_dtypes, plan_shards
from ingraft.sources import adapter_source, base_source
from ingraft.steps import MergePlan, OutputShard, WrittenFile
from ingraft.targets import PlacedEdit, place_saved, place_targets
from ingraft.ties import TiePlan, plan_ties

DType = Literal["auto", "float32", "bfloat16", "float16"]
FileLayout = Literal["portable", "legacy", "keep"]
FILE_LAYOUTS: tuple[FileLayout, ...] = ("portable", "legacy", "keep")
STORED_DTYPES: Mapping[DType, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Measured: an interpreter with torch, and the block buffers of the threads.
RUNTIME_MEMORY = 350_000_000
# Measured: the same with transformers and peft.
IN_MEMORY_RUNTIME = 900_000_000


@dataclass(frozen=True)
class _Merge:
    """One adapter on one transformer; a model with a Router has several."""

    adapter: Adapter
    base: BaseModel
    method: Method
    names: Names
    edits: Mapping[str, tuple[Any, ...]]
    added: tuple[SavedParameter, ...]
    ties: TiePlan
    notes: tuple[str, ...]
    dequantised: Dequantised | None


def plan_merge(
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    dtype: DType = "auto",
    base_precision: BasePrecision | None = None,
    layout: FileLayout = "portable",
    other_base: bool = False,
    trust_remote_code: bool = False,
) -> MergePlan:
    """Decide how `adapter` is merged into `base` (default: the base that the adapter names).

    `base_precision` says which weights of a quantised base are meant: `original`, or `dequantized`, which training
    over it saw.
    `other_base` accepts a base with other weights than those that the adapter was trained on, where its directory says
    which.
    `layout` says how the small files are written: `portable`, with older names beside the newer ones; `legacy`, for
    Sentence Transformers before 5.4, which refuses the newer ones; or `keep`, as they are.

    Reads headers and JSON; writes nothing. Raises UnusableInput with the reason when the merge cannot be right.
    """
    dtype = cast(DType, str(dtype).removeprefix("torch."))
    one_of("dtype", dtype, get_args(DType))
    one_of("layout", layout, get_args(FileLayout))
    if base_precision is not None:
        one_of("base_precision", base_precision, get_args(BasePrecision))
    adapters = open_adapters(adapter)
    stored = STORED_DTYPES.get(dtype)
    merges = [_plan_one(opened, base, base_precision, stored, trust_remote_code) for opened in adapters]
    first = merges[0]
    # (Which weights of a quantised base are meant was said.)
    if not other_base and base_precision is None:
        for merge in merges:
            check_trained_on(merge.adapter.root, merge.base.name, merge.base.checkpoint)
    if len(merges) > 1 and any(merge.dequantised for merge in merges):
        raise UnusableInput(
            f"{first.base.name} has several adapted transformers and a quantised base; that is not supported.",
            hint="Pass the model in its original precision with --base.",
        )
    trained = read_layout(first.adapter.root)
    folders = output_folders([merge.base.layout for merge in merges], trained)
    files = output_files(
        first.base.layout, first.adapter.root, trained, folders, [merge.adapter.folder for merge in merges]
    )
    shards: list[OutputShard] = []
    written: list[WrittenFile] = []
    for merge in merges:
        folder = folders[merge.base.layout.transformer]
        dtypes = output_dtypes(merge.base.checkpoint, stored, merge.dequantised)
        own = plan_shards(merge.base.checkpoint, folder, merge.edits, merge.added, merge.ties.twins, dtypes)
        index = index_file(folder, merge.base.checkpoint, own)
        written += config_changes(folder, merge.base, own, stored, untied=merge.ties.untied) + (
            [index] if index else []
        )
        shards += own
    if layout != "keep":
        found = ModelFiles(
            {file.path: file.source for file in files.carried}, {file.path: file.text for file in written}
        )
        written = with_portable(written, portable_files(found, files.layout, legacy=layout == "legacy"))
    return _assemble(merges, files, shards, written, trust_remote_code)


def _plan_one(
    adapter: Adapter,
    base: str | Path | None,
    base_precision: BasePrecision | None,
    stored: str | None,
    trust_remote_code: bool,
) -> _Merge:
    """Which tensors of the base an adapter changes, and how."""
    method = method_for(adapter.config.raw)
    if method.route == "refused":
        raise UnusableInput(f"{adapter.name}: {method.name} cannot be merged: {method.reason}")
    grouped = group_tensors(adapter, method)
    chosen = at_precision(
        open_base(adapter, base),
        adapter,
        base_precision,
        weights=[target.weight for target in grouped.targets],
        dtype=stored,
        trust_remote_code=trust_remote_code,
    )
    model = chosen.model
    tensors, names = _find_names(adapter, grouped, model, method, trust_remote_code)
    edits = place_targets(adapter, method, tensors, names, FLOAT_NAMES.get(model.checkpoint.dtype, "float32"))
    replaced, absent = place_saved(adapter, tensors.saved, names, vocabulary_sizes(model))
    check_layers_covered(adapter, model.checkpoint, tensors, names)
    added = _added(adapter, absent)
    _check_all_used(adapter, [*edits, *replaced], added)
    saved = [parameter.parameter for parameter in tensors.saved]
    check_head_stored(model, saved, names, trust_remote_code=trust_remote_code)
    ties = plan_ties([*replaced, *edits], names, model.checkpoint, adapter.config)
    by_tensor = edits_by_tensor(ties.edits)
    check_editable(model, by_tensor, ties.twins)
    notes = (*chosen.notes, *tensors.notes, *ties.notes)
    return _Merge(adapter, model, method, names, by_tensor, added, ties, notes, chosen.dequantised)


def _find_names(
    adapter: Adapter, tensors: AdapterTensors, model: BaseModel, method: Method, trust_remote_code: bool
) -> tuple[AdapterTensors, Names]:
    """Names of everything that the adapter touches; UnusableInput when a target is not in the base."""
    runtime = None
    # What is adapted is told by the running model where the file names wrapped parameters, or no module at all.
    on_parameters = has_target_parameters(adapter.config.raw)
    if method.route == "in-memory" or on_parameters:
        from ingraft.naming.meta import runtime_model

        runtime = runtime_model(model, trust_remote_code=trust_remote_code, head=model.as_stored)
        if on_parameters:
            tensors = with_parameters(tensors, adapter.config.raw, runtime)
        elif not tensors.targets:
            tensors = with_configured_modules(tensors, adapter, runtime)
    weights = [target.weight for target in tensors.targets]
    names = find_names(
        weights,
        [target.bias for target in tensors.targets],
        model,
        saved=[parameter.parameter for parameter in tensors.saved],
        runtime=runtime,
        trust_remote_code=trust_remote_code,
    )
    missing = [weight for weight in weights if weight in names.missing]
    if missing:
        raise _nothing_fits(adapter, tensors, model, missing)
    return tensors, names


def _nothing_fits(adapter: Adapter, tensors: AdapterTensors, model: BaseModel, missing: Sequence[str]) -> UnusableInput:
    lost = sum(len(target.tensors) for target in tensors.targets if target.weight in set(missing))
    first = missing[0].removesuffix(".weight")
    modules = [name.removesuffix(".weight") for name in model.checkpoint.tensors]
    named = adapter.config.base_model
    other = f" The adapter names the base {named}." if named and named != model.name else ""
    packed = quantisation_of(model)
    if packed:
        return UnusableInput(
            f"The base model {model.name} is quantised with {packed}: {first} has no plain weight in it.{other}",
            hint="Pass the model in its original precision with --base.",
        )
    return UnusableInput(
        f"{lost} of {len(adapter.tensors)} adapter tensors fit nothing in the base: "
        f"{first} has no weight in {model.name}{nearest(first, modules)}.{other}",
        hint=f"Pass the right base with --base, or run: ingraft inspect {adapter.name}",
    )


def _added(adapter: Adapter, absent: Sequence[SavedParameter]) -> tuple[SavedParameter, ...]:
    """Saved parameters that the base lacks: new heads are added, whatever nobody asked for is refused."""
    for saved in absent:
        if not adapter.config.saves_whole(saved.parameter.rsplit(".", 1)[0]):
            raise UnusableInput(
                f"{adapter.weights}: {saved.key} belongs to nothing in the base and is not in modules_to_save.",
                hint=f"Run: ingraft inspect {adapter.name}",
            )
    return tuple(absent)


def _check_all_used(adapter: Adapter, placed: Sequence[PlacedEdit], added: Sequence[SavedParameter]) -> None:
    """Total accounting: every tensor of the adapter file goes into a step, or nothing is merged."""
    used = {info.name for item in placed for info in item.edit.inputs.values()}
    used |= {info.name for saved in added for info in saved.inputs.values()}
    unused = sorted(set(adapter.tensors) - used)
    if unused:
        raise UnusableInput(
            f"{len(unused)} of {len(adapter.tensors)} adapter tensors have no use, such as {unused[0]}."
        )


def _assemble(
    merges: Sequence[_Merge],
    files: OutputFiles,
    shards: Sequence[OutputShard],
    written: Sequence[WrittenFile],
    trust_remote_code: bool,
) -> MergePlan:
    replaced = {file.path for file in written}
    carried = tuple(file for file in files.carried if file.path not in replaced)
    small = sum(file.source.stat().st_size for file in carried) + sum(len(file.text.encode()) for file in written)
    methods = {merge.method.name: merge.method for merge in merges}
    in_memory = any(merge.method.route == "in-memory" for merge in merges)
    largest = max(merge.base.checkpoint.elements for merge in merges)
    return MergePlan(
        base=base_source([merge.base for merge in merges], merges[0].dequantised),
        adapter=adapter_source([merge.adapter for merge in merges]),
        method=" and ".join(methods),
        peft_type=merges[0].method.peft_type,
        route="in-memory" if in_memory else "streamed",
        layout=files.layout,
        names=merges[0].names.how,
        shards=tuple(shards),
        carried=carried,
        written=tuple(written),
        left_behind=files.left_behind,
        notes=tuple(dict.fromkeys(note for merge in merges for note in merge.notes)),
        needed_disk=sum(shard.nbytes for shard in shards) + small,
        needed_memory=IN_MEMORY_RUNTIME + 10 * largest if in_memory else RUNTIME_MEMORY + _largest_inputs(shards),
        trust_remote_code=trust_remote_code,
        dequantised=merges[0].dequantised,
    )


def _largest_inputs(shards: Sequence[OutputShard]) -> int:
    """Bytes of the adapter tensors that are in memory at a time, as float32: those of the largest steps."""
    sizes = [
        sum(4 * info.elements for edit in step.edits for info in edit.inputs.values())
        for shard in shards
        for step in shard.steps
    ]
    return sum(sorted(sizes)[-4:])
