"""Where the files lie and what they are called: links, other alphabets, directories that may only be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from helpers.files import snapshot, stored_tensors
from helpers.handmade import write_adapter, write_base
from helpers.merging import cli

SOURCES = Path(__file__).parents[2] / "src"


def make(root: Path, base: str = "base", adapter: str = "adapter") -> tuple[Path, Path]:
    folder = write_base(root / base, sentence_transformers=True)
    return folder, write_adapter(root / adapter, folder)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same merge where nothing is unusual."""
    root = tmp_path_factory.mktemp("usual")
    assert cli("merge", make(root)[1], root / "out").code == 0
    return root / "out"


def same_weights(one: Path, other: Path) -> bool:
    return bool(stored_tensors(one)) and stored_tensors(one) == stored_tensors(other)


def command(
    *arguments: str | Path, before: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One command line in a process of its own, started by `before`."""
    return subprocess.run(
        [*before, sys.executable, "-m", "ingraft", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(SOURCES), **(environment or {})},
    )


NAMES = [
    "模型 目录",
    "two  spaces",
    "[bold]x",
    "{0} %s",
    'it\'s "so"',
    "*?",
    "ä" * 80,
    "-x",
    "~",
    "a.safetensors",
    "😀",
]


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, usual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the base, the adapter, the output, its parent and the saved plan, absolute and relative."""
    root = tmp_path / name
    _, adapter = make(root, f"{name} base", f"{name} adapter")
    output = root / "new" / name
    plan = root / f"{name}.json"

    run = cli("merge", adapter, output, "--save-plan", plan)

    assert (run.code, run.err) == (0, "")
    assert str(output) in run.out
    assert same_weights(output, usual)
    assert name in json.loads(plan.read_text(encoding="utf-8"))["adapter"]["root"]
    assert cli("verify", output).code == 0
    monkeypatch.chdir(root)
    run = cli("merge", f"./{adapter.name}", f"./{name} out", "--base", f"./{name} base")
    assert (run.code, run.err) == (0, "")
    assert same_weights(root / f"{name} out", usual)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_names_that_are_no_text(usual: Path, tmp_path: Path) -> None:
    """Bytes of another encoding than the system's."""
    name = os.fsdecode(b"\xe4\xff")
    _, adapter = make(tmp_path, f"base {name}", f"adapter {name}")

    run = cli("merge", adapter, tmp_path / f"out {name}", "--base", tmp_path / f"base {name}")

    assert (run.code, run.err) == (0, "")
    assert same_weights(tmp_path / f"out {name}", usual)
    manifest = json.loads((tmp_path / f"out {name}" / "ingraft.json").read_text(encoding="utf-8"))
    assert name in json.dumps(manifest["base"], ensure_ascii=False)
    assert cli("verify", tmp_path / f"out {name}").code == 0


def test_links_to_directories(usual: Path, tmp_path: Path) -> None:
    base, adapter = make(tmp_path / "real")
    (tmp_path / "real" / "outputs").mkdir()
    links = {"b": base, "a": adapter, "o": tmp_path / "real" / "outputs"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(os.path.relpath(target, tmp_path))
    before = snapshot(tmp_path / "real")

    run = cli("merge", tmp_path / "a", tmp_path / "o" / "out", "--base", tmp_path / "b")

    assert (run.code, run.err) == (0, "")
    assert same_weights(tmp_path / "real" / "outputs" / "out", usual)
    assert {name: kind for name, kind in snapshot(tmp_path / "real").items() if "outputs/" not in name} == before


# Directories that may only be read


def bound(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a user who is bound by permissions, which root is not."""
    if os.getuid():
        return command(*arguments)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if not shutil.which("setpriv") or subprocess.run([*without, "true"], capture_output=True).returncode:
        # Permissions would stop nothing, and the test would pass whatever the program does.
        pytest.skip("root is not bound by permissions here")
    return command(*arguments, before=without)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Takes away the right to write below a directory, until the test is over."""
    changed: list[Path] = []

    def lock(root: Path) -> None:
        for path in sorted([root, *root.rglob("*")], reverse=True):
            if path.is_dir():
                changed.append(path)
            path.chmod(0o555 if path.is_dir() else 0o444)

    yield lock
    for path in changed:
        path.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_inputs_that_may_only_be_read(usual: Path, locked: Callable[[Path], None], tmp_path: Path) -> None:
    """Nothing is written beside them, and what is published can be changed all the same."""
    _, adapter = make(tmp_path / "in")
    locked(tmp_path / "in")
    before = snapshot(tmp_path / "in")

    run = bound("merge", adapter, tmp_path / "out")

    assert (run.returncode, run.stderr) == (0, "")
    assert same_weights(tmp_path / "out", usual)
    assert snapshot(tmp_path / "in") == before
    assert all(path.stat().st_mode & 0o200 for path in (tmp_path / "out").rglob("*"))


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_output_where_nothing_may_be_written(locked: Callable[[Path], None], tmp_path: Path) -> None:
    _, adapter = make(tmp_path / "in")
    (tmp_path / "there").mkdir()
    locked(tmp_path / "there")

    run = bound("merge", adapter, tmp_path / "there" / "out")

    assert run.returncode == 2
    assert run.stderr.startswith(f"error: {tmp_path / 'there'} cannot be written: Permission denied.")
    assert list((tmp_path / "there").iterdir()) == []


# Terminals and files that take no more than ASCII


def test_output_in_ascii(usual: Path, tmp_path: Path) -> None:
    """What cannot be shown is shown by its number; JSON stays JSON."""
    _, adapter = make(tmp_path, "基座", "适配器 ä")
    ascii_only = {"PYTHONIOENCODING": "ascii"}

    run = command("merge", adapter, tmp_path / "输出", environment=ascii_only)

    assert (run.returncode, run.stderr) == (0, "")
    assert r"\u8f93\u51fa" in run.stdout
    assert same_weights(tmp_path / "输出", usual)
    run = command("merge", adapter, tmp_path / "more", "--dry-run", "--format", "json", environment=ascii_only)
    assert json.loads(run.stdout)["plan"]["adapter"]["root"] == str(adapter)
    assert run.stdout.isascii()
