"""`ingraft push`: a merged model, an export or an adapter to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer

from ingraft.cli.format import Format


def push(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A merged model, an export or an adapter.", show_default=False)
    ],
    repo_id: Annotated[
        str,
        typer.Argument(
            metavar="NAME/REPO", help="A repository on the Hub; made if it is not there.", show_default=False
        ),
    ],
    private: Annotated[bool, typer.Option("--private", help="If the repository is made: for you alone.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch. Default: main.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check DIR, list what would be sent, and stop.")] = False,
    format: Annotated[Format, typer.Option(help="How to print the result.")] = "human",
) -> None:
    """Upload DIR to the Hub in one commit, if it is what its manifest says."""
    from ingraft.cli import show, show_push
    from ingraft.upload.run import push as run

    show_push.quiet_bars(human=format == "human")
    result = run(folder, repo_id, private=private, revision=revision, dry_run=dry_run)
    if format == "json":
        show.json(result.to_dict())
    else:
        show_push.result(result)
