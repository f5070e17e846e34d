"""How `ingraft inspect` prints an adapter and a model."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path

from rich.text import Text

from ingraft.checkpoint import dtype_name
from ingraft.cli import show
from ingraft.cli.show import count, line, plural
from ingraft.files import human_bytes
from ingraft.inspection import AdapterInspection, ModelInspection
from ingraft.naming.numbers import layer_span

_BAR = 24


def adapter(found: AdapterInspection) -> None:
    """An adapter: method, settings, targets, base, and a bar per module for the size of what it adds."""
    line("adapter", str(found.path))
    settings = " · ".join(f"{key} {_plain(value)}" for key, value in found.settings.items())
    line("method", found.method + (f" · {settings}" if settings else ""))
    leaves = sorted({module.rsplit(".", 1)[-1] for module in found.modules})
    span = layer_span(set(found.modules))
    if found.modules:
        line(
            "targets", f"{plural(len(found.modules), 'module')}: {', '.join(leaves)}" + (f" in {span}" if span else "")
        )
    if found.saved:
        line("saved", f"{plural(len(found.saved), 'whole parameter')}: {', '.join(found.saved[:4])}")
    share = f", {100 * found.nbytes / found.base_nbytes:.2g} % of the base" if found.base_nbytes else ""
    line(
        "tensors",
        f"{found.tensors} · {count(found.parameters)} parameters · {dtype_name(found.dtype)} · "
        f"{human_bytes(found.nbytes)}{share}",
    )
    where = "found here" if found.base_found else "not found here: pass it with --base"
    revision = f" at {found.revision}" if found.revision else ""
    line("base", f"{found.base or 'not named'}{revision} · {where}", style="" if found.base_found else "yellow")
    if found.route == "refused":
        line("merge", f"not possible: {found.reason}", style="red")
    else:
        line("merge", f"possible, {found.route}")
    if found.norms:
        _norm_table(found.norms)


def _norm_table(norms: Mapping[str, float]) -> None:
    largest = max((norm for norm in norms.values() if isfinite(norm)), default=0.0) or 1.0
    table = show.table("target module")
    table.add_column("‖ΔW‖", justify="right")
    table.add_column("")
    for module, norm in norms.items():
        bar = "━" * max(1, round(_BAR * norm / largest)) if isfinite(norm) else ""
        table.add_row(module, f"{norm:.3g}", Text(bar, "cyan"))
    show.out().print()
    show.print_table(table, rows_are_lines=True)


def model(found: ModelInspection) -> None:
    """A model: its class and modules, its weights."""
    line("model", str(found.path))
    line("class", f"{found.model_class or 'plain transformers model'} · {found.architecture}")
    if found.modules:
        line("modules", " → ".join(kind + (f" ({path})" if path else "") for kind, path in found.modules))
    dtypes = ", ".join(f"{dtype_name(dtype)} {count(number)}" for dtype, number in found.dtypes.items())
    line("weights", f"{plural(found.tensors, 'tensor')} · {count(found.parameters)} parameters · {dtypes}")
    line("files", f"{human_bytes(found.nbytes)} in {plural(len(found.shards), 'shard')}")
    if len(found.shards) > 1:
        for name, size in found.shards:
            line("", f"{name} {human_bytes(size)}", style="dim")
    for key, value in found.settings.items():
        line("", f"{key}: {_plain(value)}", style="dim")
    if found.remote_code:
        line("code", f"needs --trust-remote-code to be loaded: {', '.join(found.remote_code)}", style="yellow")


def _plain(value: object) -> str:
    return str(Path(value)) if isinstance(value, Path) else str(value)
