"""How a diagnosis is printed."""

from __future__ import annotations

from rich.text import Text

from ingraft.cli.show import line, out
from ingraft.serving import Diagnosis, ServerDiagnosis

_STYLES = {"ready": "green", "loses something": "yellow", "will not start": "bold red"}
_MARKS = {"refuses": ("✗", "bold red"), "differs": ("!", "yellow"), "note": ("·", "dim")}


def diagnosis(found: Diagnosis) -> None:
    """Each server with its verdict, and under it every broken rule: reason, what to do, source."""
    width = max(len(server.server) for server in found.servers)
    for server in found.servers:
        _server(server, width, adapter=found.kind == "adapter")
    if found.rewritable:
        line("fix", f"ingraft doctor {found.path} --fix OUT rewrites {', '.join(found.rewritable)}", style="dim")


def _server(server: ServerDiagnosis, width: int, *, adapter: bool) -> None:
    verdict = "needs the merge" if adapter and server.verdict == "will not start" else server.verdict
    out().print(Text.assemble((f"{server.server:<{width}}  ", "bold cyan"), (verdict, _STYLES[server.verdict])))
    stops = server.verdict == "will not start"
    for finding in server.findings:
        if stops and finding.effect == "note":
            continue  # of no use before the server starts
        mark, style = _MARKS[finding.effect]
        fix = f". {finding.fix}" if finding.fix else ""
        out().print(Text.assemble(f"  {mark} ", (f"{finding.reason}{fix}", style), (f"  [{finding.source}]", "dim")))
