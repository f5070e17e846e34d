"""All or nothing on disk: what may be in the way, what a failure leaves, what a killed run left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers.files import snapshot
from ingraft import publish
from ingraft.errors import UnusableInput
from ingraft.publish import check_file, check_output, check_room, clean_up, published


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def fill(folder: Path, text: str = "old") -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(text)
    return folder


# What may be in the way


@pytest.mark.parametrize("overwrite", [False, True])
def test_free_outputs(overwrite: bool, tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deep", overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty", overwrite=overwrite)


def test_output_not_empty(tmp_path: Path) -> None:
    fill(tmp_path / "out")

    with pytest.raises(UnusableInput, match=r"is not empty.*--overwrite"):
        check_output(tmp_path / "out", overwrite=False)
    check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("name", ["new.html", "new/deep/page.html", "there.html", "link.html", "adapter/new.html"])
def test_free_files(name: str, tmp_path: Path) -> None:
    fill(tmp_path / "adapter")
    (tmp_path / "there.html").touch()
    (tmp_path / "link.html").symlink_to("there.html")

    check_file(tmp_path / name, inputs=(tmp_path / "adapter", "sentence-transformers/all-MiniLM-L6-v2"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("adapter", "adapter is a directory"),
        ("adapter/model.safetensors", "would replace what is read"),
        ("elsewhere.html", "would replace what is read"),
        ("rows.csv", "would replace what is read"),
        ("rows.csv/page.html", "rows.csv is a file, in which nothing can lie"),
    ],
)
def test_files_that_would_cost_something(name: str, said: str, tmp_path: Path) -> None:
    fill(tmp_path / "adapter")
    (tmp_path / "elsewhere.html").symlink_to("adapter/model.safetensors")
    (tmp_path / "rows.csv").touch()

    with pytest.raises(UnusableInput, match=said):
        check_file(tmp_path / name, inputs=(tmp_path / "adapter", tmp_path / "rows.csv"))


def test_a_device_is_no_input() -> None:
    check_file(Path(os.devnull), inputs=(Path(os.devnull),))


@pytest.mark.parametrize("there", ["notes.txt", "photos/config.json", "rows.csv"])
def test_overwrite_is_for_an_earlier_output(there: str, tmp_path: Path) -> None:
    (tmp_path / "out" / there).parent.mkdir(parents=True)
    (tmp_path / "out" / there).touch()

    with pytest.raises(UnusableInput, match=r"out is not empty and holds no model, so it is not replaced"):
        check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("there", ["config.json", "modules.json", "adapter_config.json", "ingraft.json"])
def test_what_ingraft_writes_may_be_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).touch()

    check_output(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_output_is_no_directory(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "none")

    with pytest.raises(UnusableInput, match="is a file"):
        check_output(tmp_path / "file", overwrite=overwrite)
    with pytest.raises(UnusableInput, match="broken symbolic link"):
        check_output(tmp_path / "link", overwrite=overwrite)


@pytest.mark.parametrize("output", ["base", "base/deep/merged", ".", "link", "link/merged"])
def test_output_is_no_input(output: str, tmp_path: Path) -> None:
    fill(tmp_path / "base")
    (tmp_path / "link").symlink_to(tmp_path / "base")

    with pytest.raises(UnusableInput, match="which is read"):
        check_output(tmp_path / output, overwrite=True, inputs=(tmp_path / "base",))
    check_output(tmp_path / "based", overwrite=True, inputs=(tmp_path / "base",))


def test_output_is_no_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell in it would be left in a directory that is gone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    for output in (".", tmp_path / "here", ".."):
        with pytest.raises(UnusableInput, match="the directory that you are in"):
            check_output(Path(output), overwrite=True)


def test_output_is_no_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")

    with pytest.raises(UnusableInput, match=r"a disk is mounted.*out/merged"):
        check_output(tmp_path / "out", overwrite=False)
    check_output(tmp_path / "out" / "merged", overwrite=False)


def test_output_in_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "out")

    clean_up(tmp_path / "out")
    with pytest.raises(UnusableInput, match="broken symbolic link"):
        check_output(tmp_path / "out", overwrite=True)


# Publishing


def test_becomes_the_output(tmp_path: Path) -> None:
    with published(tmp_path / "a" / "out") as folder:
        assert folder.parent == tmp_path / "a"
        assert folder.name.startswith(".")
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("new")
        assert not (tmp_path / "a" / "out").exists()

    assert set(snapshot(tmp_path)) == {"a", "a/out", "a/out/deep", "a/out/deep/x"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_takes_the_place_of_an_empty_directory(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with published(tmp_path / "out", overwrite=overwrite) as folder:
        (folder / "x").touch()

    assert set(snapshot(tmp_path)) == {"out", "out/x"}


def test_overwrite_swaps(tmp_path: Path) -> None:
    fill(tmp_path / "out")
    (tmp_path / "out" / "adapter_config.json").touch()
    with published(tmp_path / "out", overwrite=True) as folder:
        (folder / "model.safetensors").write_text("new")
        assert (tmp_path / "out" / "model.safetensors").read_text() == "old"

    assert set(snapshot(tmp_path)) == {"out", "out/model.safetensors"}
    assert (tmp_path / "out" / "model.safetensors").read_text() == "new"


def test_overwrite_through_a_link(tmp_path: Path) -> None:
    fill(tmp_path / "versions" / "1")
    (tmp_path / "out").symlink_to(tmp_path / "versions" / "1")
    with published(tmp_path / "out", overwrite=True) as folder:
        (folder / "model.safetensors").write_text("new")

    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "versions" / "1" / "model.safetensors").read_text() == "new"
    assert set(snapshot(tmp_path)) == {"out", "versions", "versions/1", "versions/1/model.safetensors"}


def test_relative_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with published(Path("out")) as folder:
        (folder / "x").touch()

    assert set(snapshot(tmp_path)) == {"out", "out/x"}


class Interrupted(BaseException):
    pass


def half_a_merge(output: Path, error: BaseException, *, overwrite: bool = False) -> None:
    with published(output, overwrite=overwrite) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted, SystemExit, UnusableInput])
@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_nothing(error: type[BaseException], overwrite: bool, tmp_path: Path) -> None:
    if overwrite:
        fill(tmp_path / "out")
    before = snapshot(tmp_path)

    with pytest.raises(error):
        half_a_merge(tmp_path / "out", error("stop"), overwrite=overwrite)

    assert snapshot(tmp_path) == before


def test_failure_leaves_no_parents(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput):
        half_a_merge(tmp_path / "a" / "b" / "out", UnusableInput("no"))

    assert snapshot(tmp_path) == {}


def test_output_filled_meanwhile(tmp_path: Path) -> None:
    def merge() -> None:
        with published(tmp_path / "out") as folder:
            (folder / "x").touch()
            fill(tmp_path / "out", "somebody else's")

    with pytest.raises(UnusableInput, match="no longer empty"):
        merge()

    assert set(snapshot(tmp_path)) == {"out", "out/model.safetensors"}
    assert (tmp_path / "out" / "model.safetensors").read_text() == "somebody else's"


def test_full_disk_is_said_in_words(tmp_path: Path) -> None:
    with (
        pytest.raises(UnusableInput, match=r"Writing .*out failed: No space left on device\. Nothing was published"),
        published(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert snapshot(tmp_path) == {}


def test_unreadable_input_beside_the_output_is_no_failed_writing(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as refused, published(tmp_path / "out"):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(tmp_path / "base" / "LICENSE"))

    assert refused.value.filename == str(tmp_path / "base" / "LICENSE")
    assert snapshot(tmp_path) == {}


def test_taken_for_a_leftover_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run cleans up between the making of the directory and its lock."""
    real, disturbances = publish.in_use, iter([True])

    @contextmanager
    def in_use(folder: Path) -> Iterator[None]:
        if next(disturbances, False):
            clean_up(tmp_path / "out")
            assert not folder.exists()
        with real(folder):
            yield

    monkeypatch.setattr(publish, "in_use", in_use)
    with published(tmp_path / "out") as folder:
        (folder / "x").touch()

    assert set(snapshot(tmp_path)) == {"out", "out/x"}


def test_without_locks_processes_tell(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "fcntl", None)
    left_by(tmp_path, "out", dead)
    running = [left_by(tmp_path, "out", process) for process in (os.getpid(), os.getppid())]

    with published(tmp_path / "out") as folder:
        clean_up(tmp_path / "out")
        (folder / "x").touch()

    assert sorted(tmp_path.iterdir()) == sorted([*running, tmp_path / "out"])


def test_parent_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = snapshot(tmp_path)

    with pytest.raises(UnusableInput, match="cannot be written"), published(tmp_path / "file" / "out"):
        pass

    assert snapshot(tmp_path) == before


def test_failing_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out")
    before = snapshot(tmp_path)
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.startswith(".") and not self.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(UnusableInput, match="Input/output error"),
        published(tmp_path / "out", overwrite=True) as folder,
    ):
        (folder / "x").touch()

    assert snapshot(tmp_path) == before


@contextmanager
def recorded_fsyncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    yield calls


def test_durable_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, then its directories, then the rename, then the parent."""
    with recorded_fsyncs(monkeypatch) as calls, published(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "x").touch()
        (folder / "y").touch()

    rename = calls.index("rename")
    assert {"fsync x", "fsync y", "fsync deep", f"fsync {folder.name}"} <= set(calls[:rename])
    assert calls.index("fsync x") < calls.index("fsync deep") < calls.index(f"fsync {folder.name}")
    assert f"fsync {tmp_path.name}" in calls[rename:]


def test_durable_after_a_swap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "out")
    with recorded_fsyncs(monkeypatch) as calls, published(tmp_path / "out", overwrite=True) as folder:
        (folder / "x").touch()

    assert calls.count("rename") == 2
    last = len(calls) - 1 - calls[::-1].index("rename")
    assert f"fsync {tmp_path.name}" in calls[last:]


def test_new_parents_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the output is on the disk, and no directory that leads to it."""
    with recorded_fsyncs(monkeypatch) as calls, published(tmp_path / "a" / "b" / "out") as folder:
        (folder / "x").touch()

    rename = calls.index("rename")
    assert {f"fsync {tmp_path.name}", "fsync a"} <= set(calls[:rename])
    assert calls[rename:] == ["rename", "fsync b"]


@pytest.mark.parametrize("there", ["nothing", "empty", "filled"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()])
def test_what_does_not_reach_the_disk_is_taken_back(
    there: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    if there == "empty":
        output.mkdir()
    if there == "filled":
        fill(output)
    before = snapshot(tmp_path)
    calls: list[bool] = []  # was the old state there, at each fsync of the parent?

    def fsync(path: Path) -> None:
        if path == tmp_path:
            calls.append({name: file for name, file in snapshot(tmp_path).items() if name[0] != "."} == before)
            if len(calls) == 1:
                raise error

    monkeypatch.setattr(publish, "fsync", fsync)
    with (
        pytest.raises((UnusableInput, KeyboardInterrupt), match=r"Nothing was published|^$"),
        published(output, overwrite=True) as folder,
    ):
        (folder / "x").touch()

    assert snapshot(tmp_path) == before
    assert calls[0] is False
    assert calls[-1] is True


def test_swapped_out_output_is_in_use_until_the_swap_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run that starts in that moment neither removes it nor puts it back."""
    fill(tmp_path / "out")
    seen: list[list[str]] = []
    real = publish.fsync

    def fsync(path: Path) -> None:
        if path == tmp_path:
            clean_up(tmp_path / "out")
            seen.append([child.name for child in tmp_path.iterdir() if child.name.endswith(".old")])
        real(path)

    monkeypatch.setattr(publish, "fsync", fsync)
    with published(tmp_path / "out", overwrite=True) as folder:
        (folder / "x").touch()

    assert seen == [[f"{folder.name}.old"]]
    assert set(snapshot(tmp_path)) == {"out", "out/x"}


# What a killed run left


def left_by(parent: Path, output: str, process: int, suffix: str = "") -> Path:
    return fill(parent / f".ingraft-{output}.{process}.0123abcd{suffix}", "left")


@pytest.mark.parametrize("output", ["out", "out.v2", "out [1]*"])
def test_leftovers_are_removed(output: str, dead: int, tmp_path: Path) -> None:
    left_by(tmp_path, output, dead)

    clean_up(tmp_path / output)

    assert snapshot(tmp_path) == {}


def test_next_run_cleans_up(dead: int, tmp_path: Path) -> None:
    left_by(tmp_path, "out", dead)

    with published(tmp_path / "out") as folder:
        (folder / "x").touch()

    assert set(snapshot(tmp_path)) == {"out", "out/x"}


def test_running_merges_are_left_alone(tmp_path: Path) -> None:
    with published(tmp_path / "out") as folder:
        clean_up(tmp_path / "out")
        assert folder.is_dir()


def test_running_merge_of_another_process_is_left_alone(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ingraft.publish import published\n"
        "with published(Path(sys.argv[1])) as folder:\n"
        "    print(folder, flush=True); sys.stdin.readline(); (folder / 'x').touch()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.is_dir()
        clean_up(tmp_path / "out")
        assert folder.is_dir()
        process.stdin.write("go on\n")
        process.stdin.close()
        assert process.wait() == 0

    assert set(snapshot(tmp_path)) == {"out", "out/x"}


def test_leftover_of_an_earlier_process_with_this_number(tmp_path: Path) -> None:
    """In a container every run has the same process id."""
    left_by(tmp_path, "out", os.getpid())

    clean_up(tmp_path / "out")

    assert snapshot(tmp_path) == {}


def test_leftovers_of_other_outputs_are_left_alone(dead: int, tmp_path: Path) -> None:
    """`out` is a prefix of `out.5`, whose running merge must not lose its directory."""
    others = [left_by(tmp_path, name, dead) for name in (f"out.{dead}", "out.v2", "outer", "other")]
    others.append(left_by(tmp_path, f"out.{dead}", dead, ".old"))

    clean_up(tmp_path / "out")

    assert all(other.is_dir() for other in others)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [".ingraft-out.notes", ".ingraft-out.", ".ingraft-out.12x.0123abcd"])
def test_other_hidden_things_are_left_alone(name: str, tmp_path: Path) -> None:
    fill(tmp_path / name)

    clean_up(tmp_path / "out")

    assert (tmp_path / name).is_dir()


def test_swapped_out_output_is_put_back(dead: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two renames: the old model stands aside, the new one is not in place."""
    left_by(tmp_path, "out", dead)
    left_by(tmp_path, "out", dead, ".old")

    with recorded_fsyncs(monkeypatch) as calls:
        clean_up(tmp_path / "out")

    assert set(snapshot(tmp_path)) == {"out", "out/model.safetensors"}
    assert calls == ["rename", f"fsync {tmp_path.name}"]


def test_swapped_out_output_is_removed_when_the_new_one_is_there(dead: int, tmp_path: Path) -> None:
    left_by(tmp_path, "out", dead, ".old")
    fill(tmp_path / "out", "new")

    clean_up(tmp_path / "out")

    assert (tmp_path / "out" / "model.safetensors").read_text() == "new"
    assert set(snapshot(tmp_path)) == {"out", "out/model.safetensors"}


# Room


def test_enough_room(tmp_path: Path) -> None:
    check_room(tmp_path / "new" / "out", disk=1000, memory=1000)


def test_disk_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "free_bytes", lambda folder: 1_500_000)

    with pytest.raises(UnusableInput, match=r"disk of .*out is too small: .*2 MB.*1\.5 MB are free"):
        check_room(tmp_path / "out", disk=2_000_000, memory=0)


def test_memory_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "available_memory", lambda: 300_000_000)

    with pytest.raises(UnusableInput, match="takes about 350 MB, 300 MB are available"):
        check_room(tmp_path / "out", disk=0, memory=350_000_000)


def test_unknown_memory_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "available_memory", lambda: None)

    check_room(tmp_path / "out", disk=0, memory=10**15)


def test_what_was_published_is_known_though_the_run_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the output that was replaced is being removed."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    fill(tmp_path / "out")
    before = len(publish.IN_PLACE)
    fill(tmp_path / "work", "new")
    monkeypatch.setattr(publish.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish.put_in_place(tmp_path / "work", tmp_path / "out", overwrite=True)

    assert publish.IN_PLACE[before:] == [tmp_path / "out"]
    assert (tmp_path / "out" / "model.safetensors").read_text() == "new"
