"""The `ingraft` command: its verbs, its global options, and how a run ends.

Exit codes: 0 done · 1 a check of the result failed · 2 unusable input or command line · 130 interrupted ·
141 nobody reads the output any more.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ingraft import __version__
from ingraft.cli.verbs import Verbs
from ingraft.errors import IngraftError

_INTERRUPTED = 130
_UNREAD = 141

app = typer.Typer(
    name="ingraft",
    cls=Verbs,
    help="Graft a PEFT adapter into its Sentence Transformers model: a merge that cannot half-succeed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ingraft {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.", envvar="INGRAFT_DEBUG")] = False,
) -> None:
    if debug:
        os.environ["INGRAFT_DEBUG"] = "1"  # where main() finds it, and every process that a verb starts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's own) and return its exit code.

    Errors that a person can mend are printed in words; any other exception is a bug and passes through.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or file that cannot show a character shows its number
            stream.reconfigure(errors="backslashreplace")
    # Idle threads of torch spin otherwise: on a busy machine a training step then takes ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # bitsandbytes, where it is installed, tells of its kernels as soon as peft imports it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    published = len(_published())
    try:
        code = app(args=arguments, prog_name="ingraft", standalone_mode=False)
    except IngraftError as error:
        _print_error(error, error.message, error.hint)
        return error.exit_code
    except OSError as error:
        if error.errno is None:
            raise
        # The machine said no: a file without permission, a full disk, …
        where = f"{error.filename}: " if error.filename is not None else ""
        _print_error(error, f"{where}{error.strerror}")
        return IngraftError.exit_code
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # how typer ends when nobody reads its output any more
            return _UNREAD
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _refuse_usage(error)
    if code == _INTERRUPTED:  # how typer hands on Ctrl-C
        made = ", ".join(map(str, _published()[published:]))
        typer.echo(f"interrupted; {f'{made} was published before' if made else 'nothing was published'}", err=True)
    return code if isinstance(code, int) else 0


def _published() -> Sequence[object]:
    """The outputs that this process has published; no verb that publishes was run where the module is not there."""
    publish = sys.modules.get("ingraft.publish")
    return publish.IN_PLACE if publish else ()


def _refuse_usage(error: Any) -> int:
    """Print what typer says of a wrong command line, as all errors are printed; returns its exit code."""
    if type(error).__name__ != "NoArgsIsHelpError":  # that has printed the help
        message = " ".join(error.format_message().replace("Value error, ", "").split())
        verb = error.ctx.command_path if getattr(error, "ctx", None) is not None else "ingraft"
        _print_error(error, message if message[-1:] in ".?" else f"{message}.", f"Run: {verb} --help")
    return int(error.exit_code)


def _print_error(error: Exception, message: str, hint: str = "") -> None:
    """`error: message` and the hint's lines, indented, on stderr; not wrapped: logs are searched by line."""
    from rich.console import Console
    from rich.text import Text

    if os.environ.get("INGRAFT_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    console = Console(stderr=True)
    console.print(Text.assemble(("error:", "bold red"), f" {message}"), soft_wrap=True)
    for line in hint.splitlines():
        console.print(Text(f"  {line}"), soft_wrap=True)
