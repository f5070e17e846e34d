"""Killed, interrupted, out of space, twice at once: the output is absent or complete, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.files import snapshot, write_json
from helpers.handmade import (
    HIDDEN,
    attention_modules,
    bert_shapes,
    lora_tensors,
    random_tensors,
    write_adapter,
    write_base,
)
from helpers.merging import cli
from helpers.running import end, start, wait_until_working, working_directories
from ingraft import publish
from ingraft.files import human_bytes
from ingraft.plan import plan_merge

LAYERS, WIDTH = 6, 1536


def shapes(layers: int, width: int) -> dict[str, tuple[int, int]]:
    names = ("q_proj", "o_proj")
    return {f"layers.{n}.self_attn.{name}.weight": (width, width) for n in range(layers) for name in names}


def write_large(folder: Path, layers: int, width: int, dtype: str = "F32", *, sparse: bool = False) -> Path:
    """A checkpoint made of one repeated block of numbers, or (sparse) of holes that take no disk."""
    size = {"F32": 4, "BF16": 2}[dtype]
    header, offset = {}, 0
    for name, (rows, columns) in shapes(layers, width).items():
        stop = offset + rows * columns * size
        header[name] = {"dtype": dtype, "shape": [rows, columns], "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            file.truncate(8 + len(text) + offset)
        else:
            block = torch.randn(width, width).div_(40).numpy().tobytes()
            for _ in range(offset // len(block)):
                file.write(block)
    write_json(folder / "config.json", {"model_type": "mistral", "architectures": ["MistralModel"]})
    return folder


def write_lora(
    folder: Path, base: Path, layers: int, width: int, rank: int = 8, names: tuple[str, ...] = ("q_proj",)
) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for module in (name.removesuffix(".weight") for name in shapes(layers, width) if name.split(".")[-2] in names):
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, width, generator=generator) / 40
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(width, rank, generator=generator) / 10
    return write_adapter(folder, base, tensors=tensors, rank=rank, target_modules=list(names))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on a base of 113 MB."""
    root = tmp_path_factory.mktemp("inputs")
    base = write_large(root / "base", LAYERS, WIDTH)
    return write_lora(root / "adapter", base, LAYERS, WIDTH)


@pytest.fixture(scope="module")
def complete(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a complete output holds, but for the manifest, which knows the time."""
    output = tmp_path_factory.mktemp("complete") / "out"
    assert cli("merge", adapter, output).code == 0
    return files(output)


def files(output: Path) -> dict[str, str]:
    found = snapshot(output)
    assert json.loads((output / "ingraft.json").read_text())["verification"]["passed"] is True
    return {name: content for name, content in found.items() if name != "ingraft.json"}


def check_only(parent: Path, output: Path) -> None:
    assert [path.name for path in parent.iterdir()] == [output.name]


# Killed


def duration(adapter: Path, parent: Path, *options: str) -> float:
    """Seconds from the working directory to the end of a merge."""
    process = start("merge", adapter, parent / "timed", *options)
    wait_until_working(parent, process)
    began = time.monotonic()
    assert end(process) == 0
    return time.monotonic() - began


@pytest.mark.slow
def test_killed_at_any_moment(adapter: Path, complete: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    parent = tmp_path / "parent"
    parent.mkdir()
    output = parent / "out"
    seconds = duration(adapter, tmp_path / "first")
    moments = 16
    seen = {"absent": 0, "complete": 0, "left": 0}
    for moment in range(moments):
        process = start("merge", adapter, output)
        wait_until_working(parent, process)
        time.sleep(1.15 * seconds * moment / moments)
        process.kill()
        process.join()
        seen["left"] += bool(working_directories(parent))
        if output.exists():
            seen["complete"] += 1
            assert files(output) == complete
            for path in sorted(output.rglob("*"), reverse=True):
                path.unlink()
            output.rmdir()
        else:
            seen["absent"] += 1
            # the next run removes what this one left: there is never more than one
            assert len(working_directories(parent)) <= 1

    assert seen["absent"] >= 2
    assert seen["left"] >= 2
    assert end(start("merge", adapter, output)) == 0
    assert files(output) == complete
    check_only(parent, output)


@pytest.mark.slow
def test_killed_while_overwriting(adapter: Path, complete: dict[str, str], tmp_path: Path) -> None:
    """The old model stays until the new one is there; between two renames there may be none for a moment."""
    (tmp_path / "first").mkdir()
    parent = tmp_path / "parent"
    output = parent / "out"
    output.mkdir(parents=True)
    (output / "model.safetensors").write_text("old")
    (output / "stale.txt").write_text("old")
    old = snapshot(output)
    seconds = duration(adapter, tmp_path / "first")
    moments = 8
    for moment in range(moments):
        process = start("merge", adapter, output, "--overwrite")
        wait_until_working(parent, process)
        time.sleep(1.1 * seconds * (0.5 + moment / moments / 2))
        process.kill()
        process.join()
        if output.exists():
            assert snapshot(output) == old or files(output) == complete

    assert end(start("merge", adapter, output, "--overwrite")) == 0
    assert files(output) == complete
    check_only(parent, output)


def test_killed_command(adapter: Path, tmp_path: Path) -> None:
    """The same once with the command as a user starts it."""
    command = [sys.executable, "-m", "ingraft", "merge", str(adapter), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not working_directories(tmp_path):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (left,) = working_directories(tmp_path)

    assert end(start("merge", adapter, tmp_path / "out")) == 0

    assert not left.exists()
    check_only(tmp_path, tmp_path / "out")


def test_killed_between_the_renames(adapter: Path, tmp_path: Path) -> None:
    """The old model, moved aside by a run that died, is back before the next run decides anything."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for name in (f".ingraft-out.{process.pid}.0123abcd", f".ingraft-out.{process.pid}.0123abcd.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("old" if name.endswith("old") else "half")

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 2
    assert "not empty" in run.err
    assert (tmp_path / "out" / "model.safetensors").read_text() == "old"
    check_only(tmp_path, tmp_path / "out")
    assert cli("merge", adapter, tmp_path / "out", "--overwrite").code == 0
    check_only(tmp_path, tmp_path / "out")


# Interrupted


@pytest.mark.parametrize("moment", ["before it writes", "while it writes"])
def test_interrupted(moment: str, adapter: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTIBLE, "merge", str(adapter), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while moment == "while it writes" and process.poll() is None and not working_directories(tmp_path):
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err == "interrupted; nothing was published\n"
    assert snapshot(tmp_path) == {}


# The interpreter's own start cannot be interrupted in good order; from here on ingraft is running.
# A shell that runs the tests in the background has children ignore SIGINT; a user's shell does not.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from ingraft.cli import app
import ingraft.plan
real = ingraft.plan.plan_merge
def plan_merge(*arguments, **options):
    print("ready", flush=True)
    return real(*arguments, **options)
ingraft.plan.plan_merge = plan_merge
sys.exit(app.main(sys.argv[1:]))
"""


# Twice at once


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_merges_into_one_output(overwrite: bool, adapter: Path, complete: dict[str, str], tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    output = parent / "out"
    options = ["--overwrite"] if overwrite else []
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    processes = [start("merge", adapter, output, *options, log=log) for log in logs]

    codes = sorted(end(process) for process in processes)

    assert codes == [0, 0] if overwrite else [0, 2]
    assert files(output) == complete
    check_only(parent, output)
    if not overwrite:
        errors = [line for log in logs for line in log.read_text().splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "empty" in errors[0]


def test_neighbours_do_not_disturb_each_other(adapter: Path, complete: dict[str, str], tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("out", "out.2", "out.2.1")]
    processes = [start("merge", adapter, output) for output in outputs]

    assert [end(process) for process in processes] == [0, 0, 0]

    assert all(files(output) == complete for output in outputs)
    assert {path.name for path in tmp_path.iterdir()} == {output.name for output in outputs}


# Out of space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    # A disk that is really full needs a mount, which root alone may make; test_refusals has the error without a disk.
    if mount.returncode:
        pytest.skip(f"mounting a small disk needs root: {mount.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_small_disk_is_seen_beforehand(adapter: Path, small_disk: Path) -> None:
    run = cli("merge", adapter, small_disk / "out")

    assert run.code == 2
    assert "too small" in run.err
    assert "113 MB" in run.err
    assert "67.1 MB are free" in run.err
    assert snapshot(small_disk) == {}


def test_disk_that_fills_up(adapter: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else took the room after the look at it."""
    monkeypatch.setattr(publish, "free_bytes", lambda folder: 10**12)

    run = cli("merge", adapter, small_disk / "out")

    assert run.code == 2
    assert "No space left on device" in run.err
    assert run.err.startswith("error: ")
    assert snapshot(small_disk) == {}


def test_leftovers_do_not_keep_the_disk_full(small_disk: Path, tmp_path: Path) -> None:
    """What a killed run left is removed before the room is measured, or no run would ever have enough."""
    base = write_large(tmp_path / "base", 2, 1024)  # 16.8 MB
    adapter = write_lora(tmp_path / "adapter", base, 2, 1024)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = small_disk / f".ingraft-out.{process.pid}.0123abcd"
    left.mkdir()
    (left / "model.safetensors").write_bytes(bytes(55_000_000))

    run = cli("merge", adapter, small_disk / "out")

    assert run.code == 0, run.err
    check_only(small_disk, small_disk / "out")


def test_output_is_a_link_to_another_disk(small_disk: Path, tmp_path: Path) -> None:
    """What the link names is replaced, on its own disk; the link stays."""
    base = write_large(tmp_path / "base", 1, 512)
    adapter = write_lora(tmp_path / "adapter", base, 1, 512)
    (small_disk / "real").mkdir()
    (tmp_path / "out").symlink_to(small_disk / "real")

    for options in ([], ["--overwrite"]):
        run = cli("merge", adapter, tmp_path / "out", *options)
        assert run.code == 0, run.err
        assert (tmp_path / "out").is_symlink()
        assert (small_disk / "real" / "model.safetensors").is_file()
        check_only(small_disk, small_disk / "real")
        assert working_directories(tmp_path) == []


# Memory


# A process inherits the peak of the one that forked it, so a small one stands between this one and the merge.
_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(*arguments: str | Path) -> tuple[int, int]:
    """Exit code and largest resident memory, in bytes, of one command."""
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "ingraft", *map(str, arguments)]
    code, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(code), int(peak) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--workers", "8"), ("--dtype", "float16")], ids=["eight threads", "cast"])
def test_memory_does_not_grow_with_the_model(options: tuple[str, ...], tmp_path: Path) -> None:
    """A base of 604 MB, half of which is edited; each matrix has 75 MB."""
    base = write_large(tmp_path / "base", 4, 6144, "BF16", sparse=True)
    adapter = write_lora(tmp_path / "adapter", base, 4, 6144, rank=16)

    code, peak = peak_memory("merge", adapter, tmp_path / "out", *options)

    assert code == 0
    assert peak < 500_000_000


@pytest.mark.slow
def test_memory_of_the_route_through_peft_is_what_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base of 64 M parameters, nearly all in one embedding, is held in float64: once, not by merge and proof each."""
    rows, modules = 4_000_000, attention_modules()
    base_tensors = random_tensors(bert_shapes())
    base_tensors["embeddings.word_embeddings.weight"] = torch.ones(rows, HIDDEN)
    base = write_base(tmp_path / "base", tensors=base_tensors, config={"vocab_size": rows})
    tensors = lora_tensors(modules, bert_shapes())
    tensors |= {f"base_model.model.{module}.lora_magnitude_vector": torch.rand(HIDDEN) + 0.5 for module in modules}
    adapter = write_adapter(tmp_path / "adapter", base, tensors=tensors, init_lora_weights="pissa", use_dora=True)
    plan = plan_merge(adapter)
    assert plan.route == "in-memory"

    code, peak = peak_memory("merge", adapter, tmp_path / "out")

    assert code == 0
    assert peak < plan.needed_memory < 2 * peak

    monkeypatch.setattr(publish, "available_memory", lambda: plan.needed_memory - 10_000_000)
    run = cli("merge", adapter, tmp_path / "other")
    needed, available = human_bytes(plan.needed_memory), human_bytes(plan.needed_memory - 10_000_000)
    assert run.code == 2
    assert f"the merge takes about {needed}, {available} are available" in run.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("changed", ["adapter/adapter_model.safetensors", "base/model.safetensors", "base/config.json"])
def test_input_that_is_changed_during_the_merge_is_not_published(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proof and hashes read it again: they would be of something else."""
    import ingraft.pipeline

    base = write_large(tmp_path / "in" / "base", 1, 256)
    adapter = write_lora(tmp_path / "in" / "adapter", base, 1, 256)
    real = ingraft.pipeline.execute

    def execute(*arguments: Any, **options: Any) -> Any:
        done = real(*arguments, **options)
        with (tmp_path / "in" / changed).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b" ")
        return done

    monkeypatch.setattr(ingraft.pipeline, "execute", execute)

    run = cli("merge", adapter, tmp_path / "out")

    assert run.code == 1
    assert f"{changed} was changed while it was merged" in run.err
    assert not (tmp_path / "out").exists()
    assert working_directories(tmp_path) == []
