"""The command as a whole: what it costs to start, and how a run ends."""

from __future__ import annotations

import errno
import gc
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from ingraft.cli import app as cli
from ingraft.cli import show, verbs
from ingraft.cli.verbs import VERBS
from ingraft.errors import CheckFailed, UnusableInput
from ingraft.methods.table import METHODS

HEAVY = ("torch", "numpy", "safetensors", "huggingface_hub", "transformers", "peft", "sentence_transformers")


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes the command raise what it is given, in place of running a verb."""

    def arrange(error: BaseException) -> None:
        def app(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)

    return arrange


def test_help_imports_nothing_heavy() -> None:
    names = (*HEAVY, "ingraft.plan", "ingraft.pipeline")
    code = (
        "import sys; from ingraft.cli.app import main; code = main(['--help']);"
        f"print([name for name in {names} if name in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (run.returncode, run.stderr) == (0, "[]\n")
    assert "merge that cannot half-succeed" in run.stdout


def test_module_runs_like_the_command() -> None:
    run = subprocess.run([sys.executable, "-m", "ingraft", "--version"], capture_output=True, text=True)

    assert (run.returncode, run.stdout, run.stderr) == (0, f"ingraft {version('ingraft')}\n", "")


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert cli.main([verb, "--help"]) == 0
        usage, _, rest = capsys.readouterr().out.partition("[OPTIONS]")
        assert f"Usage: ingraft {verb}" in usage
        assert re.search(r"^ [A-Z]\S+ \w+", rest, re.MULTILINE)  # what it does


def test_a_verb_imports_no_other() -> None:
    code = (
        f"import sys; from ingraft.cli.app import main; main(['methods', '--format', 'json']);"
        f"print([verb for verb in {VERBS} if 'ingraft.cli.' + verb in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert run.stderr == "['methods']\n"


def test_a_bug_in_a_verbs_module_is_no_unknown_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise KeyError(name)

    verbs._command.cache_clear()
    monkeypatch.setattr(verbs, "import_module", broken)

    with pytest.raises(KeyError, match=r"ingraft\.cli\.merge"):
        cli.main(["merge"])


def test_one_run_after_the_other_freezes_nothing_more() -> None:
    """Of the process that calls it, which may be a notebook."""
    cli.main(["methods", "--format", "json"])
    before = gc.get_freeze_count()

    cli.main(["methods", "--format", "json"])

    assert gc.get_freeze_count() <= before


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage: ingraft" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["merge", "adapter"], "Missing argument 'OUTPUT'."),
        (["merge", "a", "o", "--dtype", "fp16"], "'--dtype': 'fp16' is not one of 'auto', 'float32', 'bfloat16'"),
        (["merge", "a", "o", "--workers", "0"], "'--workers': Input should be greater than or equal to 1."),
        (["merge", "a", "o", "--bass", "x"], "No such option: --bass (Possible options: --base)."),
    ],
)
def test_wrong_command_lines_are_one_line_and_the_next_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err.splitlines()[0]
    assert err.splitlines()[1:] == ["  Run: ingraft merge --help"]


def test_unknown_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["method"]) == 2
    assert "Did you mean 'methods'?" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "code"), [(UnusableInput, 2), (CheckFailed, 1)])
def test_errors_are_one_line_and_a_hint(fail_with, capsys, kind, code) -> None:
    message = "a [tensor] that fits nothing " * 20
    fail_with(kind(message, hint="Pass --base.\nOr run: ingraft inspect x"))

    assert cli.main(["methods"]) == code

    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {message}\n  Pass --base.\n  Or run: ingraft inspect x\n"


def test_debug_adds_the_traceback(fail_with, capsys, monkeypatch) -> None:
    monkeypatch.setenv("INGRAFT_DEBUG", "1")
    fail_with(UnusableInput("no base"))

    assert cli.main(["methods"]) == 2

    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("error: no base\n")


def test_debug_option_is_the_same(monkeypatch, capsys) -> None:
    monkeypatch.setenv("INGRAFT_DEBUG", "0")

    assert cli.main(["--debug", "methods", "--format", "json"]) == 0

    assert cli.os.environ["INGRAFT_DEBUG"] == "1"


def test_interrupt() -> None:
    code = (
        "from ingraft.cli import app as cli\n"
        "@cli.app.command()\n"
        "def stopped() -> None: raise KeyboardInterrupt\n"
        "raise SystemExit(cli.main(['stopped']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted; nothing was published\n")


def test_interrupt_after_an_output_is_in_place(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from ingraft.cli import app as cli\n"
        "from ingraft.publish import published\n"
        "@cli.app.command()\n"
        "def stopped() -> None:\n"
        "    with published(Path('out')) as folder: (folder / 'x').touch()\n"
        "    raise KeyboardInterrupt\n"
        "raise SystemExit(cli.main(['stopped']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert (run.returncode, run.stdout) == (130, "")
    assert run.stderr == f"interrupted; {tmp_path.resolve() / 'out'} was published before\n"


@pytest.mark.parametrize("arguments", [["methods", "--format", "json"], ["merge", "--help"]])
def test_a_reader_that_goes_away_is_no_failed_check(arguments: list[str]) -> None:
    """As a shell says of a program that SIGPIPE ended."""
    with subprocess.Popen([sys.executable, "-m", "ingraft", *arguments], stdout=-1, stderr=-1) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()

        assert run.stderr.read() == b""
    assert run.returncode == 141


def test_no_progress_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    with show.progress(True) as progress:
        assert progress is None


def test_refusals_of_the_system_are_no_bugs(fail_with, capsys) -> None:
    fail_with(PermissionError(errno.EACCES, "Permission denied", "merged"))

    assert cli.main(["methods"]) == 2
    assert capsys.readouterr().err == "error: merged: Permission denied\n"


@pytest.mark.parametrize("bug", [KeyError("x"), OSError("a library's own")])
def test_bugs_pass_through(fail_with, bug: Exception) -> None:
    fail_with(bug)

    with pytest.raises(type(bug)):
        cli.main(["methods"])


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods", "--format", "json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == [method.name for method in METHODS]
    assert all(row["reason"] if row["route"] == "refused" else row["layers"] for row in rows)


def test_methods_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["methods"]) == 0

    out = capsys.readouterr().out
    assert all(method.name.split()[0] in out for method in METHODS)
