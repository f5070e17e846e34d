"""Every decision of a merge, made from headers and JSON alone: which tensors change and why, and what is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from ingraft.adapter import Adapter, AdapterTensors, SavedParameter, group_tensors, open_adapter
from ingraft.base_model import EDITABLE_DTYPES, BaseModel, open_base, quantisation_of
from ingraft.checkpoint import Shard, TensorInfo
from ingraft.completeness import check_layers_covered
from ingraft.config_files import config_changes, index_file
from ingraft.errors import UnusableInput, nearest
from ingraft.experts import has_target_parameters, with_parameters
from ingraft.layout import Layout, read_layout
from ingraft.methods.method import Method
from ingraft.methods.table import method_for
from ingraft.naming import Names, find_names
from ingraft.output_files import output_files
from ingraft.steps import REPLACE, Action, Edit, MergePlan, MergeStep, OutputShard, Source
from ingraft.targets import PlacedEdit, place_saved, place_targets
from ingraft.ties import Twin, plan_ties

DType = Literal["auto", "float32", "bfloat16", "float16"]
STORED_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Measured: an interpreter with torch, and the block buffers of the threads.
RUNTIME_MEMORY = 350_000_000


def plan_merge(
    adapter: str | Path,
    base: str | Path | None = None,
    *,
    dtype: DType = "auto",
    trust_remote_code: bool = False,
) -> MergePlan:
    """Decide how `adapter` is merged into `base` (default: the base that the adapter names).

    Reads headers and JSON; writes nothing. Raises UnusableInput with the reason when the merge cannot be right.
    """
    opened = open_adapter(adapter)
    method = method_for(opened.config.raw)
    if method.route == "refused":
        raise UnusableInput(f"{opened.name}: {method.name} cannot be merged: {method.reason}")
    model = open_base(opened, base)
    tensors, names = _find_names(opened, group_tensors(opened, method), model, trust_remote_code)
    edits = place_targets(opened, method, tensors, names)
    replaced, absent = place_saved(opened, tensors.saved, names)
    check_layers_covered(opened, model.checkpoint, tensors, names)
    added = _added(opened, absent)
    _check_all_used(opened, [*edits, *replaced], added)
    ties = plan_ties([*replaced, *edits], names, model.checkpoint, opened.config.raw)
    by_tensor = _by_tensor(ties.edits)
    _check_editable(model, by_tensor, ties.twins)

    files = output_files(model.layout, opened, read_layout(opened.root))
    stored = STORED_DTYPES.get(dtype)
    shards = _shards(opened, model, files.layout, by_tensor, added, ties.twins, stored)
    written, carried = config_changes(files, model, shards, stored, untied=ties.untied)
    index = index_file(files.layout, model.checkpoint, shards)
    written = (*written, index) if index else written
    small = sum(file.source.stat().st_size for file in carried) + sum(len(file.text) for file in written)
    return MergePlan(
        base=_base_source(model),
        adapter=_adapter_source(opened, method),
        method=method.name,
        peft_type=method.peft_type,
        route=method.route,
        layout=files.layout,
        names=names.how,
        shards=shards,
        carried=carried,
        written=written,
        left_behind=files.left_behind,
        notes=(*tensors.notes, *ties.notes),
        needed_disk=sum(shard.nbytes for shard in shards) + small,
        needed_memory=RUNTIME_MEMORY + _largest_inputs(opened, shards),
        trust_remote_code=trust_remote_code,
    )


def _find_names(
    adapter: Adapter, tensors: AdapterTensors, model: BaseModel, trust_remote_code: bool
) -> tuple[AdapterTensors, Names]:
    """Names of everything that the adapter touches; UnusableInput when a target is not in the base."""
    if has_target_parameters(adapter.config.raw):
        from ingraft.naming.meta import runtime_model

        runtime = runtime_model(model, trust_remote_code=trust_remote_code)
        tensors = with_parameters(tensors, adapter.config.raw, runtime)
    weights = [target.weight for target in tensors.targets]
    biases = [target.bias for target in tensors.targets]
    saved = [parameter.parameter for parameter in tensors.saved]
    names = find_names(weights, [*biases, *saved], model, trust_remote_code=trust_remote_code)
    missing = [weight for weight in weights if weight in names.missing]
    if missing:
        raise _nothing_fits(adapter, tensors, model, missing)
    return tensors, names


def _nothing_fits(
    adapter: Adapter, tensors: AdapterTensors, model: BaseModel, missing: Sequence[str]
) -> UnusableInput:
    lost = sum(len(target.tensors) for target in tensors.targets if target.weight in set(missing))
    first = missing[0].removesuffix(".weight")
    modules = [name.removesuffix(".weight") for name in model.checkpoint.tensors]
    named = adapter.config.base_model
    other = f" The adapter names the base {named}." if named and named != model.name else ""
    return UnusableInput(
        f"{lost} of {len(adapter.tensors)} adapter tensors fit nothing in the base: "
        f"{first} has no weight in {model.name}{nearest(first, modules)}.{other}",
        hint=f"Pass the right base with --base, or run: ingraft inspect {adapter.name}",
    )


def _added(adapter: Adapter, absent: Sequence[SavedParameter]) -> tuple[SavedParameter, ...]:
    """Saved parameters that the base lacks: new heads are added, whatever nobody asked for is refused."""
    for saved in absent:
        module = saved.parameter.rsplit(".", 1)[0]
        wanted = adapter.config.modules_to_save
        if not any(f".{module}.".find(f".{name}.") >= 0 for name in wanted):
            raise UnusableInput(
                f"{adapter.weights}: {saved.key} belongs to nothing in the base and is not in modules_to_save.",
                hint=f"Run: ingraft inspect {adapter.name}",
            )
    return tuple(absent)


def _check_all_used(adapter: Adapter, placed: Sequence[PlacedEdit], added: Sequence[SavedParameter]) -> None:
    """Total accounting: every tensor of the adapter file goes into a step, or nothing is merged."""
    used = {key for item in placed for key in item.edit.inputs.values()} | {saved.key for saved in added}
    unused = sorted(set(adapter.tensors) - used)
    if unused:
        raise UnusableInput(f"{len(unused)} of {len(adapter.tensors)} adapter tensors have no use, such as {unused[0]}.")
    if not used:
        raise UnusableInput(f"{adapter.name} changes nothing.")


def _by_tensor(placed: Sequence[PlacedEdit]) -> Mapping[str, tuple[Edit, ...]]:
    """Edits by stored tensor. Parts of one tensor are either the same or apart from each other."""
    grouped: dict[str, list[Edit]] = defaultdict(list)
    for item in placed:
        for other in grouped[item.tensor]:
            (a, b), (c, d) = other.elements, item.edit.elements
            if (a, b) != (c, d) and max(a, c) < min(b, d):
                raise UnusableInput(
                    f"{other.target} and {item.edit.target} change overlapping parts of {item.tensor}.",
                    hint="That cannot be merged one after the other.",
                )
        grouped[item.tensor].append(item.edit)
    return {tensor: tuple(edits) for tensor, edits in grouped.items()}


def _check_editable(model: BaseModel, by_tensor: Mapping[str, tuple[Edit, ...]], twins: Sequence[Twin]) -> None:
    packed = quantisation_of(model)
    stored = {**model.checkpoint.tensors, **{twin.tensor: twin.source for twin in twins}}
    for tensor, edits in by_tensor.items():
        info = stored[tensor]
        if info.dtype not in EDITABLE_DTYPES:
            how = f"quantised with {packed}" if packed else f"stored as {info.dtype}"
            raise UnusableInput(
                f"The base model {model.name} is {how}: {edits[0].target} ({info.dtype} {list(info.shape)}) cannot be edited.",
                hint="Pass the model in its original precision with --base.",
            )


def _shards(
    adapter: Adapter,
    model: BaseModel,
    layout: Layout,
    by_tensor: Mapping[str, tuple[Edit, ...]],
    added: Sequence[SavedParameter],
    twins: Sequence[Twin],
    stored: str | None,
) -> tuple[OutputShard, ...]:
    shards = []
    for position, shard in enumerate(model.checkpoint.shards):
        steps = [_step(adapter, info, by_tensor.get(info.name, ()), stored) for info in shard.tensors]
        if position == len(model.checkpoint.shards) - 1:
            steps += [_add(adapter, saved, model, stored) for saved in added]
            steps += [_twin(twin, by_tensor.get(twin.tensor, ()), stored) for twin in twins]
        file = PurePosixPath(layout.transformer) / output_name(shard)
        metadata = shard.metadata or {"format": "pt"}
        shards.append(OutputShard(str(file), tuple(steps), metadata))
    return tuple(shards)


def output_name(shard: Shard) -> str:
    """`pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`; others keep their names."""
    name = shard.path.name
    if shard.path.suffix == ".bin" or name.startswith("pytorch_model"):
        return shard.path.stem.replace("pytorch_model", "model") + ".safetensors"
    return name


def _step(adapter: Adapter, info: TensorInfo, edits: tuple[Edit, ...], stored: str | None) -> MergeStep:
    floating = info.dtype in EDITABLE_DTYPES
    dtype = stored if stored and floating else info.dtype
    if not edits:
        action: Action = "copy" if dtype == info.dtype else "cast"
        return MergeStep(action, info.name, dtype, info.shape, info, (), "no adapter tensor is for it")
    replaced = all(edit.formula == REPLACE for edit in edits)
    shape = info.shape
    if edits[0].formula == REPLACE and edits[0].elements != (0, info.elements) and len(edits[0].elements) == 2:
        whole = adapter.tensors[edits[0].inputs["value"]]
        shape = whole.shape if whole.elements == edits[0].elements[1] and edits[0].elements[0] == 0 else shape
    kinds = sorted({edit.formula.rsplit(":", 1)[-1] for edit in edits if edit.formula != REPLACE})
    reason = "the adapter holds it whole" if replaced else f"{', '.join(kinds)} on {edits[-1].target}"
    return MergeStep("replace" if replaced else "edit", info.name, dtype, shape, info, edits, reason)


def _add(adapter: Adapter, saved: SavedParameter, model: BaseModel, stored: str | None) -> MergeStep:
    info = adapter.tensors[saved.key]
    rows = info.shape[0] if info.shape else 1
    edit = Edit(
        target=saved.parameter.rsplit(".", 1)[0],
        parameter=saved.parameter,
        part="weight",
        kind="linear",
        formula=REPLACE,
        inputs={"value": saved.key},
        settings={},
        shape=(rows, info.elements // max(rows, 1)),
        elements=(0, info.elements),
        rows=(0, rows),
    )
    dtype = stored or model.checkpoint.dtype
    return MergeStep("add", saved.parameter, dtype, info.shape, None, (edit,), "trained with the adapter, not in the base")


def _twin(twin: Twin, edits: tuple[Edit, ...], stored: str | None) -> MergeStep:
    dtype = stored if stored and twin.source.dtype in EDITABLE_DTYPES else twin.source.dtype
    reason = f"was tied to {twin.source.name}"
    return MergeStep("add", twin.tensor, dtype, twin.source.shape, twin.source, edits, reason)


def _largest_inputs(adapter: Adapter, shards: Sequence[OutputShard]) -> int:
    """Bytes of the adapter tensors that are in memory at a time, as float32: those of the largest steps."""
    sizes = [
        sum(4 * adapter.tensors[key].elements for edit in step.edits for key in edit.inputs.values())
        for shard in shards
        for step in shard.steps
    ]
    return sum(sorted(sizes)[-4:])


def _base_source(model: BaseModel) -> Source:
    checkpoint = model.checkpoint
    return Source(
        name=model.name,
        root=model.layout.root,
        weights=tuple(shard.path for shard in checkpoint.shards),
        nbytes=checkpoint.nbytes,
        details={
            "architecture": (model.config.get("architectures") or [model.config.get("model_type", "")])[0],
            "parameters": checkpoint.elements,
            "dtype": checkpoint.dtype,
            "transformer": model.layout.transformer,
            "format": "pickled" if checkpoint.pickled else "safetensors",
        },
    )


def _adapter_source(adapter: Adapter, method: Method) -> Source:
    raw = adapter.config.raw
    keys = ("r", "lora_alpha", "alpha", "use_rslora", "target_modules", "modules_to_save", "rank_pattern", "alpha_pattern")
    details = {key: raw[key] for key in keys if raw.get(key) not in (None, {}, [], False)}
    return Source(adapter.name, adapter.root, (adapter.weights,), adapter.nbytes, details)
