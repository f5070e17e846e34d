"""How `ingraft diff` prints: what is equal in a line, what differs in a table, the largest change first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from ingraft.checkpoint import dtype_name
from ingraft.cli import show
from ingraft.cli.show import line, out, plural

if TYPE_CHECKING:
    from ingraft.diff import ModelDiff, TensorDiff
    from ingraft.diff.rank import Rank
    from ingraft.progress import Progress

_SIGNS = {"changed": ("~", "yellow"), "only in a": ("-", "red"), "only in b": ("+", "green")}


def stage(progress: Progress | None) -> Callable[[int], Callable[[int], None]] | None:
    """A bar named `compare` out of a command's progress."""
    if progress is None:
        return None

    def begin(total: int) -> Callable[[int], None]:
        progress.begin("compare", total)
        return progress.advance

    return begin


def models(found: ModelDiff) -> None:
    """Both directories, the tensors, the files, the verdict."""
    line("a", str(found.a))
    line("b", str(found.b))
    _summary("tensors", [tensor.state for tensor in found.tensors])
    changed = [tensor for tensor in found.tensors if tensor.state == "changed"]
    if changed:
        show.print_table(_tensor_table(changed), rows_are_lines=True)
    for tensor in found.tensors:
        if tensor.state in ("only in a", "only in b"):
            _entry(tensor.state, tensor.name, _kinds(tensor))
    if not any(tensor.a and tensor.b for tensor in found.tensors):
        line("", "no tensor has the same name in both: these are models of different classes", style="yellow")
    _summary("files", [file.state for file in found.files])
    for file in found.files:
        if file.state != "equal":
            _entry(file.state, file.path, file.detail)
    if found.equal:
        line("equal", "every tensor and every file", style="bold green")
    else:
        line("different", _verdict(found), style="bold yellow")


def _summary(label: str, states: Sequence[str]) -> None:
    counts = {state: states.count(state) for state in ("equal", "changed", "only in a", "only in b")}
    line(label, " · ".join(f"{number:,} {state}" for state, number in counts.items() if number) or "none")


def _tensor_table(tensors: Sequence[TensorDiff]) -> Table:
    table = show.table()
    table.add_column("tensor", overflow="fold", min_width=24)
    for title in ("of ‖a‖", "‖b − a‖", "largest", "changed", "rank"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("dtype and shape", overflow="fold")
    for tensor in sorted(tensors, key=_size, reverse=True):
        table.add_row(tensor.name, *_numbers(tensor), _kinds(tensor))
    return table


def _size(tensor: TensorDiff) -> float:
    """The relative norm; what cannot be measured comes first."""
    if tensor.change is not None and not tensor.change.norm and not tensor.change.not_finite:
        return 0.0
    if tensor.change is None or tensor.change.not_finite or tensor.change.relative is None:
        return float("inf")
    return tensor.change.relative


def _numbers(tensor: TensorDiff) -> tuple[str, ...]:
    change = tensor.change
    if change is None:
        return "", "", "", "", ""
    share = f"{100 * change.changed / change.elements:.3g} %"
    changed = share if not change.not_finite else f"{share}, {change.not_finite:,} NaN or infinite"
    relative = "" if change.relative is None else f"{change.relative:.3g}"
    return relative, f"{change.norm:.3g}", f"{change.largest:.3g}", changed, _rank(tensor.rank)


def _rank(rank: Rank | None) -> str:
    if rank is None:
        return ""
    if rank.value == 0:
        return "rounding"
    return f"≥ {rank.value}" if rank.at_least else str(rank.value)


def _kinds(tensor: TensorDiff) -> str:
    """`float32 → bfloat16 384×384`: what differs on both sides, the rest once."""
    kinds = [kind for kind in (tensor.a, tensor.b) if kind]
    dtypes = dict.fromkeys(dtype_name(dtype) for dtype, _ in kinds)
    shapes = dict.fromkeys("×".join(map(str, shape)) or "scalar" for _, shape in kinds)
    return f"{' → '.join(dtypes)} {' → '.join(shapes)}"


def _entry(state: str, name: str, detail: str) -> None:
    sign, style = _SIGNS[state]
    out().print(Text.assemble((f"{sign} ", style), name, (f"  {detail}" if detail else "", "dim")))


def _verdict(found: ModelDiff) -> str:
    tensors = sum(tensor.state != "equal" for tensor in found.tensors)
    files = sum(file.state != "equal" for file in found.files)
    return f"{plural(tensors, 'tensor') if tensors else 'no tensor'}, {plural(files, 'file') if files else 'no file'}"
