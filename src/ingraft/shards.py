"""The output's weight files: one step per tensor, in the base's shards and order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ingraft.adapter import SavedParameter
from ingraft.base_model import EDITABLE_DTYPES, BaseModel, quantisation_of
from ingraft.base_precision import Dequantised
from ingraft.checkpoint import Checkpoint, Shard, TensorInfo
from ingraft.errors import UnusableInput
from ingraft.steps import REPLACE, Action, Edit, MergeStep, OutputShard
from ingraft.targets import PlacedEdit
from ingraft.ties import Twin


@dataclass(frozen=True)
class OutputDtypes:
    """What the output's tensors are stored in.

    model   what the adapter adds is stored in
    all     of every floating-point tensor, where that was asked for
    fitted  by tensor, of a dequantised base, which may be read in a wider dtype than the model has: rounded once
    """

    model: str
    all: str | None = None
    fitted: Mapping[str, str] = field(default_factory=dict)

    def of(self, info: TensorInfo) -> str:
        if self.all:
            return self.all if info.dtype in EDITABLE_DTYPES else info.dtype
        return self.fitted.get(info.name, info.dtype)


def output_dtypes(checkpoint: Checkpoint, asked: str | None, dequantised: Dequantised | None) -> OutputDtypes:
    """The dtype `asked` for, else those of the model that was quantised, else the base's own."""
    if asked:
        return OutputDtypes(asked, all=asked)
    return OutputDtypes(dequantised.dtype, fitted=dequantised.dtypes) if dequantised else OutputDtypes(checkpoint.dtype)


def edits_by_tensor(placed: Sequence[PlacedEdit]) -> Mapping[str, tuple[Edit, ...]]:
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


def check_editable(model: BaseModel, by_tensor: Mapping[str, tuple[Edit, ...]], twins: Sequence[Twin]) -> None:
    """Raise UnusableInput when a tensor that changes is not stored as plain floating-point numbers."""
    packed = quantisation_of(model)
    stored = {**model.checkpoint.tensors, **{twin.tensor: twin.source for twin in twins}}
    for tensor, edits in by_tensor.items():
        info = stored[tensor]
        if info.dtype not in EDITABLE_DTYPES:
            how = f"quantised with {packed}" if packed else f"stored as {info.dtype}"
            raise UnusableInput(
                f"The base model {model.name} is {how}: {edits[0].target} "
                f"({info.dtype} {list(info.shape)}) cannot be edited.",
                hint="Pass the model in its original precision with --base.",
            )


def plan_shards(
    checkpoint: Checkpoint,
    folder: str,
    edits: Mapping[str, tuple[Edit, ...]],
    added: Sequence[SavedParameter],
    twins: Sequence[Twin],
    dtypes: OutputDtypes,
) -> list[OutputShard]:
    """One output file per shard of the base; what the base lacks goes to the end of the last one.

    `folder` is the transformer's in the output.
    """
    shards = []
    for position, shard in enumerate(checkpoint.shards):
        steps = [_step(info, edits.get(info.name, ()), dtypes.of(info)) for info in shard.tensors]
        if position == len(checkpoint.shards) - 1:
            steps += [_add(saved, dtypes.model) for saved in added]
            steps += [_twin(twin, edits.get(twin.tensor, ()), dtypes.of(twin.source)) for twin in twins]
        file = PurePosixPath(folder) / output_name(shard)
        shards.append(OutputShard(str(file), tuple(steps), shard.metadata or {"format": "pt"}))
    return shards


def output_name(shard: Shard) -> str:
    """`pytorch_model-00001-of-00002.bin` becomes `model-00001-of-00002.safetensors`; others keep their names."""
    if shard.path.suffix == ".bin" or shard.path.name.startswith("pytorch_model"):
        return shard.path.stem.replace("pytorch_model", "model") + ".safetensors"
    return shard.path.name


def _step(info: TensorInfo, edits: tuple[Edit, ...], dtype: str) -> MergeStep:
    if not edits:
        action: Action = "copy" if dtype == info.dtype else "cast"
        return MergeStep(action, info.name, dtype, info.shape, info, (), "no adapter tensor is for it")
    if all(edit.formula == REPLACE for edit in edits):
        return MergeStep(
            "replace", info.name, dtype, _new_shape(info, edits), info, edits, "the adapter holds it whole"
        )
    kinds = sorted({edit.formula.rsplit(":", 1)[-1] for edit in edits if edit.formula != REPLACE})
    reason = f"{', '.join(kinds)} on {edits[-1].target}"
    return MergeStep("edit", info.name, dtype, _new_shape(info, edits), info, edits, reason)


def _new_shape(info: TensorInfo, edits: tuple[Edit, ...]) -> tuple[int, ...]:
    """The base's shape, or that of a replacement with another number of rows (a grown vocabulary)."""
    return next((edit.inputs["value"].shape for edit in edits if edit.grown), info.shape)


def _add(saved: SavedParameter, dtype: str) -> MergeStep:
    info = saved.info
    rows = info.shape[0] if info.shape else 1
    edit = Edit(
        target=saved.parameter.rsplit(".", 1)[0],
        parameter=saved.parameter,
        part="weight",
        kind="linear",
        formula=REPLACE,
        inputs=saved.inputs,
        settings={},
        shape=(rows, info.elements // max(rows, 1)),
        elements=(0, info.elements),
        rows=(0, rows),
    )
    return MergeStep(
        "add", saved.parameter, dtype, info.shape, None, (edit,), "trained with the adapter, not in the base"
    )


def _twin(twin: Twin, edits: tuple[Edit, ...], dtype: str) -> MergeStep:
    reason = f"was tied to {twin.source.name}"
    return MergeStep("add", twin.tensor, dtype, twin.source.shape, twin.source, edits, reason)
