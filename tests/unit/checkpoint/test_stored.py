"""Stored tensors, looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingraft import reading
from ingraft.checkpoint import TensorInfo
from ingraft.checkpoint.stored import stored_bytes, stored_elements
from ingraft.checkpoint.transfer import open_files
from ingraft.kernels.buffers import Buffers


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("lead", [8, 9])
@pytest.mark.parametrize(("start", "stop"), [(0, 100), (3, 4), (50, 50)])
def test_elements(
    mapped: bool, lead: int, start: int, stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory as their dtype wants them, after a header of any length."""
    monkeypatch.setattr(reading, "MAPPED", reading.MAPPED and mapped)
    numbers = np.random.default_rng(0).standard_normal(100, dtype=np.float32)
    path = tmp_path / "x"
    path.write_bytes(b"." * lead + numbers.tobytes() + b".")
    info = TensorInfo("t", "F32", (10, 10), path, lead, lead + 400)

    with open_files() as files:
        found = stored_elements(files, info, start, stop, Buffers(), "a")
        part = stored_bytes(files, path, lead + 4 * start, 4 * (stop - start), Buffers(), "a")

    assert found.flags.aligned
    assert np.array_equal(found, numbers[start:stop])
    assert part.tobytes() == found.tobytes()
