"""sha256 of files that are there, and of files that grow meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingraft import hashes as module
from ingraft import reading
from ingraft.hashes import FileHashes

BUFFER = 1 << 22


@pytest.fixture(params=["mapped", "read"], autouse=True)
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAPPED", reading.MAPPED and request.param == "mapped")


@pytest.mark.parametrize("size", [0, 1, 1000, BUFFER - 1, BUFFER, BUFFER + 1])
def test_hashes(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(random.Random(size).randbytes(size))

    with FileHashes(workers=2) as hashes:
        hashes.start([path, path])
        assert hashes.get(path) == hashlib.sha256(path.read_bytes()).hexdigest()
        assert hashes.get(tmp_path / "never started") is None


@pytest.mark.parametrize("seed", range(5))
def test_a_file_that_is_written_in_pieces(seed: int, tmp_path: Path) -> None:
    """Bytes are hashed after they were told of, never what lay there before, in whatever order they come."""
    chance = random.Random(seed)
    size = chance.choice([1, 5000, 3 * BUFFER + 17])
    content = chance.randbytes(size)
    cuts = sorted({0, size, *(chance.randrange(size) for _ in range(60))})
    pieces = list(itertools.pairwise(cuts))
    chance.shuffle(pieces)
    path = tmp_path / "x"

    with FileHashes(workers=1) as hashes, ThreadPoolExecutor(3) as pool:
        hashes.follow(path, size)
        hashes.written(tmp_path / "another", 0, 5)
        with path.open("wb") as file:
            file.truncate(size)

        def write(start: int, stop: int) -> None:
            time.sleep(0.001)
            with path.open("r+b") as file:
                file.seek(start)
                file.write(content[start:stop])
            hashes.written(path, start, stop - start)
            hashes.written(path, start, 0)

        list(pool.map(lambda piece: write(*piece), pieces))
        assert hashes.get(path) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("two_at_once", [True, False])
@pytest.mark.parametrize(
    ("there", "grown"), [(0, 1), (1, 0), (BUFFER, BUFFER), (3 * BUFFER + 5, BUFFER + 77), (99, 2 * BUFFER + 1)]
)
def test_a_file_beside_one_that_grows(
    there: int, grown: int, two_at_once: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TWO_AT_ONCE", two_at_once and module.TWO_AT_ONCE)
    chance = random.Random(there)
    texts = {tmp_path / "there": chance.randbytes(there), tmp_path / "grown": chance.randbytes(grown)}
    for path, text in texts.items():
        path.write_bytes(text)

    with FileHashes(workers=2) as hashes:
        hashes.follow(tmp_path / "grown", grown, beside=tmp_path / "there")
        hashes.start([tmp_path / "there"])
        for start in range(0, grown, BUFFER // 3):
            hashes.written(tmp_path / "grown", start, min(BUFFER // 3, grown - start))
        for path, text in texts.items():
            assert hashes.get(path) == hashlib.sha256(text).hexdigest()


def test_a_file_that_was_begun_before_is_not_read_again(tmp_path: Path) -> None:
    path, grown = tmp_path / "there", tmp_path / "grown"
    path.write_bytes(b"there")
    grown.write_bytes(b"grown")

    with FileHashes() as hashes:
        hashes.start([path])
        hashes.follow(grown, 5, beside=path)
        hashes.written(grown, 0, 5)
        found = [hashes.get(path), hashes.get(grown)]

    assert found == [hashlib.sha256(text).hexdigest() for text in (b"there", b"grown")]


def test_leaving_stops_what_waits_for_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    started = time.monotonic()

    with FileHashes(workers=1) as hashes:
        hashes.follow(path, 100)
        hashes.written(path, 0, 50)

    assert time.monotonic() - started < 5
