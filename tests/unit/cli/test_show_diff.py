"""How a comparison is printed: what counts most stands first, and every state is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingraft.cli import show_diff
from ingraft.diff import FileDiff, ModelDiff, TensorDiff
from ingraft.diff.numbers import Change
from ingraft.diff.rank import Rank

F32 = ("F32", (3, 4))


def changed(name: str, norm: float = 1.0, base: float = 10.0, **facts: object) -> TensorDiff:
    change = Change(12, 6, norm, base, 0.5, int(facts.pop("not_finite", 0)))  # type: ignore[call-overload]
    return TensorDiff(name, "changed", F32, ("BF16", (3, 4)), change, **facts)  # type: ignore[arg-type]


def printed(capsys: pytest.CaptureFixture[str], *tensors: TensorDiff, files: tuple[FileDiff, ...] = ()) -> list[str]:
    show_diff.models(ModelDiff(Path("x"), Path("y"), tensors, files))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_largest_change_comes_first_and_none_last(capsys) -> None:
    lines = printed(
        capsys,
        changed("none", norm=0.0, base=0.0),
        changed("small", norm=0.1),
        changed("broken", not_finite=2),
        changed("large", norm=2.0),
        TensorDiff("reshaped", "changed", F32, ("F32", (3, 5))),
    )

    names = [line.split()[0] for line in lines if line.split()[0] in {"none", "small", "broken", "large", "reshaped"}]
    assert set(names[:2]) == {"broken", "reshaped"}
    assert names[2:] == ["large", "small", "none"]
    assert any("float32 3×4 → 3×5" in line for line in lines)
    assert any("50 %, 2 NaN or infinite" in line for line in lines)


@pytest.mark.parametrize(
    ("rank", "text"),
    [
        (Rank(8, False, 0.1, 1.0), "8"),
        (Rank(256, True, 0.1, 1.0), "≥ 256"),
        (Rank(0, False, 0.1, 0.05), "rounding"),
    ],
)
def test_ranks(capsys, rank, text) -> None:
    line = next(line for line in printed(capsys, changed("w", rank=rank)) if line.startswith("w "))

    assert line.split("50 %")[1].split("float32")[0].strip() == text


def test_what_only_one_has(capsys) -> None:
    lines = printed(
        capsys,
        TensorDiff("old", "only in a", F32, None),
        TensorDiff("new", "only in b", None, ("F32", ())),
        files=(FileDiff("config.json", "changed", "width 1 → 2"), FileDiff("same.json", "equal")),
    )

    assert lines == [
        "a         x",
        "b         y",
        "tensors   1 only in a · 1 only in b",
        "- old  float32 3×4",
        "+ new  float32 scalar",
        "          no tensor has the same name in both: these are models of different classes",
        "files     1 equal · 1 changed",
        "~ config.json  width 1 → 2",
        "different 2 tensors, 1 file",
    ]


def test_equal(capsys) -> None:
    lines = printed(capsys, TensorDiff("w", "equal", F32, F32), files=(FileDiff("x.json", "equal"),))

    assert lines[2:] == ["tensors   1 equal", "files     1 equal", "equal     every tensor and every file"]
