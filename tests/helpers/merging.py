"""Runs of the command in this process, and what every merged model must be."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.files import metadata_of, raw_tensors, stored_tensors
from helpers.models import Adapted, is_nearest, new_folder, ulps
from ingraft.cli.app import main


@dataclass(frozen=True)
class Run:
    code: int
    out: str
    err: str


def cli(*arguments: str | Path) -> Run:
    """One command line, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Run(code, out.getvalue(), err.getvalue())


def merged(adapter: Path, *options: str | Path) -> Path:
    """The output of a merge that must succeed, without a word on stderr."""
    output = new_folder("merged") / "out"
    run = cli("merge", adapter, output, *options)
    assert (run.code, run.err) == (0, ""), run.err
    return output


@functools.cache
def merged_once(adapter: Path) -> Path:
    """The same for tests that only look."""
    return merged(adapter)


def weights(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def check_structure(base: Path, output: Path, dtype: Callable[[str], str] = lambda stored: stored) -> None:
    """Files, names in their order of bytes, dtypes, shapes and metadata are the base's own."""
    names = sorted(path.name for path in base.glob("*.safetensors"))
    assert sorted(path.name for path in output.glob("*.safetensors")) == names
    for name in names:
        before = {key: (dtype(d), shape) for key, (d, shape, _) in raw_tensors(base / name).items()}
        after = {key: (d, shape) for key, (d, shape, _) in raw_tensors(output / name).items()}
        assert after == before
        assert metadata_of(output / name) == metadata_of(base / name)
    index = "model.safetensors.index.json"
    assert (output / index).is_file() == (base / index).is_file()


def check_untouched(base: Path, output: Path, truth: Adapted) -> None:
    """Exactly the tensors that the adapter changes are changed; the others have the base's bytes."""
    before, after = stored_tensors(base), stored_tensors(output)
    assert {name for name in before if before[name] != after[name]} == set(truth.changed)


def check_exact(output: Path, truth: Adapted) -> None:
    """Every changed element is W + s·B·A, rounded once: within 1 ulp in float32, the nearest number in half precision.

    In half precision one element in ten thousand may be the second nearest; small models are allowed four more.
    """
    found = weights(output)
    second_nearest = elements = 0
    for name in sorted(truth.changed):
        number, exact = found[name], truth.parameters[name]
        if number.dtype == torch.float32:
            worst = float(ulps(number, exact).max())
            assert worst <= 1.0, f"{name} is off by {worst:.3g} ulp"
        else:
            second_nearest += int((~is_nearest(number, exact)).sum())
            elements += number.numel()
    allowed = 1e-4 * elements + (4 if elements < 1_000_000 else 0)
    assert second_nearest <= allowed, f"{second_nearest} of {elements} elements are not the nearest {number.dtype}"
