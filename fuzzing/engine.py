"""Runs a reader on what libFuzzer makes of sound files (through atheris), and holds it to its promises.

A reader of a stranger's file gives an answer or an error in words, soon, in little memory; it runs nothing, asks
nothing of the network and opens no file outside the directory that it was given.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Pick: TypeAlias = Callable[[int], int]  # a number below the one given
Spoil: TypeAlias = Callable[[bytes, Pick], bytes]

atheris: Any = importlib.import_module("atheris")

SECONDS = 2.0
MEMORY = 2 << 30  # more than that at once is too much for a file of a few kilobytes
_CHANCES = 50  # inputs to start from that spoil at random, beside the sound files
_ROOT = Path(__file__).resolve().parent.parent
_NEVER = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn", "subprocess.Popen",
    "socket.connect", "socket.getaddrinfo", "pickle.find_class",
)  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """files  name → sound content and how it is spoiled, other than byte by byte; one is spoiled at a time
    read   is let at the directory and told which file was spoiled; it may raise any of `refusals`
    """

    files: Mapping[str, tuple[bytes, Spoil]]
    read: Callable[[Path, str], None]
    refusals: tuple[type[Exception], ...]


@dataclass
class _Watch:
    """What a reader did that none may do. (An exception in the act could be caught on the way.)"""

    folder: Path
    on: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _NEVER and not (event == "subprocess.Popen" and "-I" in arguments[1]):  # a trial of patterns
            self.seen.append(f"{event} {arguments!r}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and not self._may_open(arguments[0]):
            self.seen.append(f"open {arguments[0]!r}")

    def _may_open(self, path: str | bytes) -> bool:
        # What Python and its libraries are made of, and what they ask the machine.
        allowed = (
            self.folder,
            _ROOT,
            sys.prefix,
            sys.base_prefix,
            *sys.path,
            "/proc",
            "/sys",
            "/dev",
            "/usr",
            "/etc/ld",
        )
        there = os.path.abspath(os.fsdecode(path))
        return there.startswith(tuple(str(place) for place in allowed if str(place)))


def run(readers: Mapping[str, Callable[[Path], Reader]], arguments: Sequence[str] | None = None) -> None:
    """`READER --seconds N --corpus DIR`: fuzz until the time is over, or to the first promise that is broken.

    The input that broke it is left in the corpus's directory, beside a copy of the file that it stands for.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=sorted(readers))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help="what earlier runs have found to be of interest, and this one adds")
    parser.add_argument("--again", type=Path, help="run this one input that libFuzzer has left")
    given = parser.parse_args(arguments)
    corpus: Path = given.corpus or Path(tempfile.mkdtemp(prefix="fuzzing-"))
    corpus.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="fuzzed-"))
    reader = readers[given.reader](folder)
    for name, (content, _) in reader.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    names = list(reader.files)
    for at, name in enumerate(names):  # how atheris takes its numbers: from the end
        seed = reader.files[name][0] + (bytes([0, at]) if len(names) > 1 else b"\0")
        (corpus / f"sound-{name.replace('/', '-')}").write_bytes(seed)
    for number in range(_CHANCES):
        (corpus / f"chance-{number}").write_bytes(random.Random(number).randbytes(400))
    watch = _Watch(folder)
    sys.addaudithook(watch.hook)
    for name in names:  # which takes sound files, and imports and keeps what it does once
        reader.read(folder, name)

    def one(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)

        def pick(count: int) -> int:
            return int(source.ConsumeIntInRange(0, count - 1)) if count > 1 else 0

        name = names[pick(len(names))]
        sound, spoil = reader.files[name]
        content = spoil(sound, pick) if pick(2) else source.ConsumeBytes(len(data))
        (folder / name).write_bytes(content)
        try:
            _hold(reader, folder, name, watch)
        except BaseException:
            (corpus / f"broken-{Path(name).name}").write_bytes(content)
            raise
        finally:
            (folder / name).write_bytes(sound)

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    limits = [f"-max_total_time={given.seconds}", "-timeout=60", "-rss_limit_mb=0", "-max_len=20000", "-len_control=0"]
    shown = [f"-artifact_prefix={corpus}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, *shown, str(given.again or corpus)], one)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hold(reader: Reader, folder: Path, name: str, watch: _Watch) -> None:
    there = set(folder.rglob("*"))
    begun = time.process_time()
    watch.on = True
    try:
        reader.read(folder, name)
    except reader.refusals as refusal:
        text = str(refusal)
        assert 0 < len(text) < 20_000, f"a message of {len(text)} characters"
    finally:
        watch.on = False
    seconds = time.process_time() - begun
    assert seconds < SECONDS, f"took {seconds:.1f} s"
    assert not watch.seen, watch.seen[:3]
    assert set(folder.rglob("*")) == there, "wrote a file"
